"""One processor in several threads: each call is padded and cut by its own settings."""

import copy
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_processing import bert_tokenizer
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from modeling_eclip import processing_eclip
from modeling_eclip.inference.embed import tokenize_titles
from modeling_eclip.processing_eclip import EClipProcessor, prepare_products
from modeling_eclip.sentence_transformers_eclip import ProductEmbedding

TITLES = ["red", "red shoe " * 4, "shoe"]
FORKS = "fork" in multiprocessing.get_all_start_methods()


@pytest.fixture
def processor(monkeypatch):
    """A processor whose tokenizer leaves, after it has set its state, other threads the time to set theirs."""
    set_state = PreTrainedTokenizerFast.set_truncation_and_padding

    def slowly(self, *args, **kwargs):
        set_state(self, *args, **kwargs)
        time.sleep(0.005)

    monkeypatch.setattr(PreTrainedTokenizerFast, "set_truncation_and_padding", slowly)
    return EClipProcessor(ViTImageProcessorPil(size={"height": 8, "width": 8}), bert_tokenizer())


def together(calls):
    """Return what each call gives when every one runs ten times, all at the same time."""
    start = threading.Barrier(len(calls))

    def repeated(call):
        start.wait()
        return [call() for _ in range(10)]

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(repeated, call) for call in calls]]


def test_a_title_is_cut_at_its_own_call_s_length(processor):
    """[CLS], the words, [SEP]: of 60 words as many as the length leaves room for."""

    def cut(length):
        return processor(text="red " * 60, max_length=length)["input_ids"]

    lengths = [5, 6, 8, 9]
    for length, found in zip(lengths, together([lambda n=n: cut(n) for n in lengths]), strict=True):
        assert found == [[2, *[4] * (length - 2), 3]] * 10


def test_padded_and_unpadded_calls_do_not_meet(processor):
    """Embedding asks for no padding, the processor for padding, and sentence-transformers goes through both."""
    module = ProductEmbedding(torch.nn.Identity(), processor)
    calls = [
        lambda: tokenize_titles(processor, TITLES)["input_ids"],
        lambda: processor(text=TITLES, return_tensors="pt")["input_ids"].tolist(),
        lambda: prepare_products(processor, [(title, None) for title in TITLES[:1]])["input_ids"].tolist(),
        lambda: module.preprocess(TITLES[1:])["input_ids"].tolist(),
    ]
    expected = [call() for call in calls]
    assert together(calls) == [[value] * 10 for value in expected]


def test_two_processors_of_one_tokenizer_do_not_meet(processor):
    other = EClipProcessor(processor.image_processor, processor.tokenizer, max_title_length=4)
    long, short = together(
        [lambda: processor(text=TITLES[1])["input_ids"], lambda: other(text=TITLES[1])["input_ids"]]
    )
    assert {len(ids) for ids in long} == {10} and {len(ids) for ids in short} == {4}


def test_images_are_not_waited_for(processor, monkeypatch):
    """A call that is at its images lets others tokenize."""
    tokenized = threading.Event()
    monkeypatch.setattr(processing_eclip, "_loaded_images", lambda images: tokenized.wait(30) and images)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as pool:
        both = pool.submit(processor, images=[image], text="red")
        processor(text="shoe")
        tokenized.set()
        assert set(both.result()) == {"input_ids", "attention_mask", "pixel_values"}


def test_a_processor_is_copied_pickled_and_saved_as_ever(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = EClipProcessor.from_pretrained(tmp_path)
    expected = processor(text=TITLES)["input_ids"]
    for other in (copy.copy(processor), copy.deepcopy(processor), pickle.loads(pickle.dumps(processor)), loaded):
        assert other(text=TITLES)["input_ids"] == expected


@pytest.mark.skipif(not FORKS, reason="processes are not forked here")
def test_a_process_forked_during_a_call_can_tokenize(processor):
    """Workers of loaders are forked while a server's threads tokenize; a copied lock would stay shut."""
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            processor(text=TITLES)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(3):
            process = multiprocessing.get_context("fork").Process(target=processor, kwargs={"text": "red"})
            process.start()
            process.join(20)
            process.kill()  # if it waits for ever
            assert process.exitcode == 0
    finally:
        stop.set()
        thread.join()
