"""Images read by worker processes: files that are open in this one, and processes that are started in any way."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_embed import build, photographs

from modeling_eclip import ProductImageError, embed_products

BATCHES = {"image_batch_size": 2, "num_workers": 2}


def noise(seed, size=(160, 120)):
    """An image that compresses badly, so that its file is longer than what is read at once."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def paths(tmp_path):
    """Photographs in several formats; the last one shows its second frame."""
    paths = [tmp_path / f"{number}.{ending}" for number, ending in enumerate(["jpg", "png", "bmp", "jpg", "png"])]
    for number, path in enumerate(paths):
        noise(number).save(path)
    noise(7).save(tmp_path / "film.gif", save_all=True, append_images=[noise(8)])
    return [*paths, tmp_path / "film.gif"]


def same(found, expected):
    """Equal to rounding: batches of another size add in another order."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def opened(paths):
    images = [Image.open(path) for path in paths]
    images[-1].seek(1)
    return images


def test_open_files_are_read_by_workers_as_by_this_process(paths):
    """Again and again, twice in one list, and in this process afterwards: nobody moves another's file."""
    model, processor = build()
    expected = embed_products(model, processor, images=opened(paths))["image_embeds"]
    images = opened(paths)
    for given in (images, images, images + images):
        found = embed_products(model, processor, images=given, **BATCHES)["image_embeds"]
        same(found, expected.repeat(len(given) // len(images), 1))
    found = embed_products(model, processor, images=images)["image_embeds"]
    same(found, expected)


def test_a_loader_starts_its_workers_once(loaders_started):
    model, processor = build()
    for show_progress in (False, True):
        embed_products(model, processor, images=photographs(3), show_progress=show_progress)
    assert len(loaders_started) == 2


def test_a_damaged_open_file_is_named(tmp_path, paths):
    whole = paths[0].read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    model, processor = build()
    images = [*opened(paths), Image.open(tmp_path / "half.jpg")]
    with pytest.raises(ProductImageError, match=r"^images\[6\]: .*ends early or is damaged"):
        embed_products(model, processor, images=images, **BATCHES)


def test_workers_may_be_spawned(paths, start_method):
    """As on macOS and Windows: all that a worker needs is pickled."""
    start_method("spawn")
    model, processor = build()
    expected = embed_products(model, processor, images=opened(paths))["image_embeds"]
    found = embed_products(model, processor, images=opened(paths), image_batch_size=4, num_workers=1)["image_embeds"]
    same(found, expected)
