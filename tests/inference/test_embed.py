"""Many products at once: the vectors of each alone, in the order given, with any batches."""

import io

import numpy as np
import pandas
import pytest
import torch
from conftest import make_config
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_eclip import EClipModel, EClipProcessor, ProductImageError, embed_products
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.inference.embed import title_batches, tokenize_titles

TITLES = ["red shoes", "a", "blue shirt with a long sleeve, cotton", "", "red", "a blue shirt", "long red sleeve"]


class Tokenizer:
    pad_token_id, padding_side = 9, "right"


def build(text="bert", vision="vit", **fields):
    tokenizer = train_title_tokenizer(["red shoes", "a blue shirt, cotton", "long sleeve"], vocab_size=300)
    config = make_config(vision, text, **fields)
    config.text_config.vocab_size = 300
    torch.manual_seed(0)
    model = EClipModel(config).eval()
    return model, EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)


def photographs(number):
    """Images for the fast path: uncompressed, and of the tower's own size."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(number)]


def one_by_one(model, processor, titles, images):
    with torch.no_grad():
        texts = [model(**processor(text=title, return_tensors="pt")).text_embeds for title in titles]
        image_embeds = [model(**processor(images=image, return_tensors="pt")).image_embeds for image in images]
    return torch.cat(texts), torch.cat(image_embeds)


def test_batches_by_hand():
    """Longest first, 6 tokens at most: 5 alone; 3 and 3; then 2, 2 and 1, padded to 2."""
    ids = [[1, 2], [1, 2, 3], [5], [1, 2, 3, 4, 5], [7, 8], [3, 2, 1]]
    tokens = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    batches = list(title_batches(tokens, Tokenizer(), 6))
    assert [rows.tolist() for rows, _ in batches] == [[3], [1, 5], [0, 4, 2]]
    assert batches[2][1]["input_ids"].tolist() == [[1, 2], [7, 8], [5, 9]]
    assert batches[2][1]["attention_mask"].tolist() == [[1, 1], [1, 1], [1, 0]]


def test_padding_goes_where_the_tokenizer_puts_it():
    tokenizer = Tokenizer()
    tokenizer.padding_side = "left"
    tokens = {"input_ids": [[1], [2, 3]], "attention_mask": [[1], [1, 1]]}
    (_, inputs), *others = title_batches(tokens, tokenizer, 100)
    assert not others and inputs["input_ids"].tolist() == [[2, 3], [9, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [0, 1]]


def test_only_equal_lengths_meet_where_nothing_tells_padding():
    batches = list(title_batches({"input_ids": [[1], [2, 3], [4], [5, 6]]}, Tokenizer(), 100))
    assert [rows.tolist() for rows, _ in batches] == [[1, 3], [0, 2]]
    assert list(title_batches({"input_ids": []}, Tokenizer(), 100)) == []


@pytest.mark.parametrize("text", ["bert", "modernbert", "clip_text_model", "siglip_text_model"])
def test_vectors_are_those_of_each_alone(text):
    model, processor = build(text)
    if text == "siglip_text_model":
        processor.title_padding, processor.max_title_length = "max_length", 12
    images = photographs(5)
    expected = one_by_one(model, processor, TITLES, images)
    for sizes in ({}, {"token_budget": 1, "image_batch_size": 1}, {"token_budget": 25, "image_batch_size": 3}):
        found = embed_products(model, processor, TITLES, images, **sizes)
        torch.testing.assert_close(found["text_embeds"], expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["image_embeds"], expected[1], rtol=0, atol=2e-3)  # rounding of the fast path


def test_batches_and_workers_change_nothing():
    model, processor = build()
    files = []
    for image in photographs(7):
        file = io.BytesIO()
        image.resize((90, 70)).save(file, "JPEG")
        files.append(file.getvalue())
    plain = embed_products(model, processor, images=files)["image_embeds"]
    assert embed_products(model, processor, images=files).keys() == {"image_embeds"}
    for sizes in ({"image_batch_size": 2}, {"image_batch_size": 3, "num_workers": 2}):
        found = embed_products(model, processor, images=files, **sizes)["image_embeds"]
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)  # sums of other batches round otherwise


def test_cut_vectors_are_the_first_values_of_whole_ones():
    model, processor = build()
    whole = embed_products(model, processor, TITLES)["text_embeds"]
    cut = embed_products(model, processor, TITLES, truncate_dim=4)["text_embeds"]
    torch.testing.assert_close(cut, whole[:, :4] / whole[:, :4].norm(dim=1, keepdim=True))


def test_half_precision_gives_unit_vectors_in_float32():
    model, processor = build()
    whole = embed_products(model, processor, TITLES)["text_embeds"]
    half = embed_products(model.to(torch.bfloat16), processor, TITLES)["text_embeds"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=1), torch.ones(len(TITLES)))
    assert (half * whole).sum(dim=1).min() > 0.99


def test_a_model_in_training_is_left_so_and_does_not_drop_out():
    model, processor = build()
    expected = embed_products(model, processor, TITLES)["text_embeds"]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = embed_products(model.train(), processor, TITLES)["text_embeds"]
    assert model.training and not found.requires_grad
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unusable_image_is_named(num_workers):
    model, processor = build()
    images = [*photographs(3), b"no image"]
    with pytest.raises(ProductImageError, match=r"^images\[3\]: .*not an image") as error:
        embed_products(model, processor, images=images, image_batch_size=2, num_workers=num_workers)
    assert error.value.reason == "not_an_image"


def test_there_is_something_to_embed():
    model, processor = build()
    with pytest.raises(ValueError, match="give titles, images or both"):
        embed_products(model, processor)
    with pytest.raises(ValueError, match=r"text\[1\].*not a title"):
        embed_products(model, processor, ["red", None])
    assert embed_products(model, processor, [])["text_embeds"].shape[0] == 0


def test_tokens_are_not_padded_to_each_other():
    _, processor = build()
    lengths = [len(row) for row in tokenize_titles(processor, TITLES)["input_ids"]]
    assert lengths == [len(processor(text=title)["input_ids"]) for title in TITLES] and len(set(lengths)) > 3


def test_columns_of_tables_are_taken_in_their_order():
    model, processor = build()
    four = photographs(4)
    expected = embed_products(model, processor, titles=TITLES[:4], images=four)
    shuffled = pandas.DataFrame({"title": TITLES[:4], "image": four}, index=[3, 2, 1, 0])
    for titles, photos in (
        (shuffled["title"], shuffled["image"]),
        (iter(TITLES[:4]), iter(four)),
        (np.array(TITLES[:4]), torch.from_numpy(np.stack([np.asarray(image) for image in four]))),
    ):
        found = embed_products(model, processor, titles=titles, images=photos)
        assert torch.equal(found["text_embeds"], expected["text_embeds"])
        assert torch.allclose(found["image_embeds"], expected["image_embeds"], atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"titles": "red boots"}, "`titles` is one str"),
        ({"images": "shoe.jpg"}, "`images` is one str"),
        ({"images": b"\xff\xd8"}, "`images` is one bytes"),
        ({"images": {"bytes": b"", "path": None}}, "`images` is one dict"),
        ({"images": Image.new("RGB", (32, 32))}, "`images` is one Image"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, r"`images` is one ndarray of shape \(32, 32, 3\)"),
        ({"titles": ["red"] * 4100 + [None]}, r"text\[4100\].*not a title"),
    ],
)
def test_one_in_place_of_many_is_refused(given, message):
    model, processor = build()
    with pytest.raises(ValueError, match=message):
        embed_products(model, processor, **given)
