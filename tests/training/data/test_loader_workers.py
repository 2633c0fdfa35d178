"""Workers of loaders: started once, and in any way that a system starts processes."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
from test_loaders import load, make_products, processor, same, stream

from training.data.augmentation import TitleAugmentation
from training.data.loaders import evaluation_loader, with_progress
from training.data.pairs import ProductPairs

__all__ = ["processor"]  # a fixture


def test_a_loader_behind_a_progress_bar_starts_its_workers_once(processor, loaders_started):
    loader = evaluation_loader(make_products(), processor, batch_size=5)
    assert len(list(with_progress(loader, "reading"))) == 5
    assert loaders_started == [loader]
    assert list(with_progress(iter("abc"), "reading")) == ["a", "b", "c"]


def test_workers_of_training_may_be_spawned(processor, start_method):
    """As on macOS and Windows: all that a worker needs is pickled."""
    products = make_products()
    titles = TitleAugmentation(word_dropout=0.1, shuffle_probability=0.5)
    expected = load(products, processor, title_augmentation=titles)
    start_method("spawn")
    same(load(products, processor, title_augmentation=titles, num_workers=1), expected)


def test_batches_of_streams_and_pairs_can_be_pickled_too(processor, tmp_path):
    """What spawned workers get; processes themselves cost seconds each."""
    left, right = np.arange(4), np.arange(4) + 4
    pairs = ProductPairs(make_products(), left, right, np.array([0, 1, 0, 1]))
    for products in (stream(make_products(), tmp_path), pairs):
        loader = evaluation_loader(products, processor, batch_size=2)
        batches = pickle.loads(ForkingPickler.dumps(loader.dataset))
        pickle.loads(ForkingPickler.dumps((loader.collate_fn, loader.worker_init_fn)))
        same([batches[number] for number in range(len(batches))], list(loader))
