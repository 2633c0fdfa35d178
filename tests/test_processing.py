"""Titles and images to inputs: defaults, errors that name the item, saving, and other checkpoints' processors."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BertTokenizer,
    BitImageProcessorPil,
    ByT5Tokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPProcessor,
    CLIPTokenizer,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipProcessor,
    ViTImageProcessorPil,
)

from modeling_eclip.images_eclip import ProductImageError
from modeling_eclip.processing_eclip import (
    LEXICAL_BITS,
    LEXICAL_KINDS,
    LEXICAL_PADDING,
    EClipProcessor,
    lexical_ids,
    prepare_products,
)

TOWERS = ROOT.parent / "shared" / "towers"
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TITLES = ["Red shoe", "", "한국 신발", "حذاء أحمر", "👟🔥", "ＮＩＫＥ   air-max 90 / ½", "a\n\t\0b"]

# Ids by hand: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, red 4, shoe 5, sho 6, ##e 7.
BERT_VOCAB = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "sho", "##e"])}


def bert_tokenizer(**kwargs) -> BertTokenizer:
    return BertTokenizer(vocab=dict(BERT_VOCAB), **kwargs)


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*BYTES, *(f"{byte}</w>" for byte in BYTES), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])


def siglip2_tokenizer() -> Siglip2Tokenizer:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    return Siglip2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], padding_side="right")


def image_processor() -> ViTImageProcessorPil:
    # Without mean and deviation a pixel's value is its colour / 255, so the inputs can be told by hand.
    return ViTImageProcessorPil(size={"height": 4, "width": 4}, do_normalize=False)


@pytest.fixture
def processor() -> EClipProcessor:
    return EClipProcessor(image_processor(), bert_tokenizer())


def test_titles_and_images(processor):
    white, grey = Image.new("RGB", (9, 5), "white"), np.full((3, 3), 51, np.uint8)
    batch = processor(text=["red shoe", "shoe"], images=[white, grey], return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    assert batch["input_ids"].tolist() == [[2, 4, 5, 3], [2, 5, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    torch.testing.assert_close(batch["pixel_values"][0], torch.ones(3, 4, 4))
    torch.testing.assert_close(batch["pixel_values"][1], torch.full((3, 4, 4), 0.2))


def test_either_alone_and_single_items(processor):
    assert processor(text="red shoe")["input_ids"] == [2, 4, 5, 3]
    assert processor(text="red shoe", return_tensors="pt")["input_ids"].tolist() == [[2, 4, 5, 3]]
    assert set(processor(text=("red", "shoe"), return_tensors="pt")) == {"input_ids", "attention_mask"}
    assert processor(text=np.array(["red", "shoe"]), return_tensors="pt")["input_ids"].shape == (2, 3)
    pil_image = Image.new("RGB", (9, 5))
    for images in (pil_image, [pil_image], np.zeros((7, 5, 3), np.uint8), torch.zeros(3, 7, 5)):
        batch = processor(images=images, return_tensors="pt")
        assert set(batch) == {"pixel_values"} and batch["pixel_values"].shape == (1, 3, 4, 4)
    for images in (torch.zeros(2, 3, 7, 5), np.zeros((2, 7, 5, 3), np.uint8), (pil_image, pil_image)):
        assert processor(images=images, return_tensors="pt")["pixel_values"].shape == (2, 3, 4, 4)
    # One image against many titles is a query, not a mistake.
    both = processor(text=["red"] * 3, images=pil_image, return_tensors="pt")
    assert both["input_ids"].shape == (3, 3) and both["pixel_values"].shape == (1, 3, 4, 4)


def test_transparent_images_reach_the_model_white(processor):
    batch = processor(images=Image.new("RGBA", (4, 4), (0, 0, 0, 0)), return_tensors="pt")
    assert batch["pixel_values"].min() == 1


@pytest.mark.parametrize("given", [{}, {"text": None, "images": None}])
def test_neither_is_an_error(processor, given):
    with pytest.raises(ValueError, match="neither text nor images"):
        processor(**given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "text: received no titles"),
        (["red", "", None], r"text\[2\]: received None.*'' for an offer"),
        (["red", float("nan")], r"text\[1\]: received nan"),
        ([["red", "shoe"]], r"text\[0\]: received \['red', 'shoe'\]"),
        (3, "text: received int"),
        (b"red", "text: received bytes"),
        (["red", "\ud83d"], r"text\[1\]: holds half of a surrogate pair"),
    ],
)
def test_what_is_no_title(processor, text, message):
    with pytest.raises(ValueError, match=message):
        processor(text=text)


def test_no_more_of_a_title_is_tokenized_than_any_title_has(processor):
    class Tokenizer:
        def __getattr__(self, name):
            return getattr(processor.tokenizer, name)

        def __call__(self, text, **settings):
            seen.extend(text if isinstance(text, list) else [text])
            return processor.tokenizer(text, **settings)

    seen: list[str] = []
    ours = copy.copy(processor)
    ours.tokenizer = Tokenizer()
    title = "red mug " * 2_000
    tokens = ours(text=title)["input_ids"], ours(text=["a", title])["input_ids"][1]
    assert [len(text) for text in seen] == [10_000, 1, 10_000]
    assert tokens[0] == tokens[1] == processor(text=title[:1_000])["input_ids"]


def test_the_remedy_for_half_a_surrogate_pair_works(processor):
    assert "\ud83d\udc5f".encode("utf-16", "surrogatepass").decode("utf-16", "replace") == "👟"
    repaired = "red \ud83d shoe".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert processor(text=repaired)["input_ids"]


def test_image_errors_name_the_item_and_keep_the_reason(processor):
    good = Image.new("RGB", (4, 4))
    for images, place, reason in [
        ([good, good, good, None], r"images\[3\]: no image", "missing"),
        ([good, b"<html>"], r"images\[1\]: bytes \(6 of them\)", "not_an_image"),
        (b"", "images: ", "empty"),
        ([[good]], r"images\[0\]: ", "unsupported"),
        (np.full((2, 3, 4, 3), np.nan), r"images\[0\]: ", "not_finite"),
    ]:
        with pytest.raises(ProductImageError, match=place) as caught:
            processor(images=images)
        assert caught.value.reason == reason
    for nothing in ([], np.zeros((0, 4, 4, 3))):
        with pytest.raises(ValueError, match="images: received no images"):
            processor(images=nothing)


def test_a_title_in_the_place_of_an_image_is_told_where_titles_go(processor):
    for given in ("a mug", ["a mug", "a boot"]):
        with pytest.raises(ProductImageError, match="no file at 'a mug'.*text="):
            processor(given)
    with pytest.raises(ProductImageError, match=r"images\[1\]: no image: received None.*leave the row out"):
        processor(images=[Image.new("RGB", (32, 32)), None])


def test_length_of_titles():
    long = "red " * 10_000
    assert len(EClipProcessor(image_processor(), bert_tokenizer())(text=long)["input_ids"]) == 128
    assert (
        len(EClipProcessor(image_processor(), bert_tokenizer(), max_title_length=200)(text=long)["input_ids"]) == 200
    )
    short = bert_tokenizer(model_max_length=16)
    assert len(EClipProcessor(image_processor(), short)(text=long)["input_ids"]) == 16
    assert len(EClipProcessor(image_processor(), short, max_title_length=200)(text=long)["input_ids"]) == 16
    cut = EClipProcessor(image_processor(), short, max_title_length=4)
    assert cut(text="red red shoe")["input_ids"] == [2, 4, 4, 3]
    cut.max_title_length = 3
    assert cut(text="red red shoe")["input_ids"] == [2, 4, 3], "a setting that is changed later holds"


def test_a_length_stored_with_the_tokenizer_does_not_win():
    # all-MiniLM-L6-v2 keeps "max_length": 128 in tokenizer_config.json; transformers would let it go first.
    processor = EClipProcessor(image_processor(), bert_tokenizer(max_length=128), max_title_length=4)
    assert processor.tokenizer.init_kwargs["max_length"] == 128
    assert len(processor(text="red " * 50)["input_ids"]) == 4
    assert len(processor(text="red " * 50, max_length=6)["input_ids"]) == 6


def test_arguments_of_a_call_go_first(processor):
    two = ["red shoe", "shoe"]
    for kwargs in (
        {"padding": "max_length", "max_length": 6},
        {"text_kwargs": {"padding": "max_length", "max_length": 6}},
    ):
        assert processor(text=two, return_tensors="pt", **kwargs)["input_ids"].tolist() == [
            [2, 4, 5, 3, 0, 0],
            [2, 5, 3, 0, 0, 0],
        ]
    assert processor(text=two, padding=False)["input_ids"] == [[2, 4, 5, 3], [2, 5, 3]]
    assert "token_type_ids" in processor(text=two, return_token_type_ids=True)
    pil_image = Image.new("RGB", (9, 5), "white")
    mixed = processor(
        text="red",
        images=pil_image,
        text_kwargs={"padding": "max_length", "max_length": 5},
        images_kwargs={"size": {"height": 2, "width": 3}},
        do_rescale=False,
        return_tensors="pt",
    )
    assert mixed["input_ids"].shape == (1, 5) and mixed["pixel_values"].shape == (1, 3, 2, 3)
    assert mixed["pixel_values"].max() == 255
    assert processor(text=two, return_tensors="pt")["input_ids"].shape == (2, 4), "a call changes no default"


def test_padding_to_the_whole_length():
    processor = EClipProcessor(image_processor(), bert_tokenizer(), max_title_length=5, title_padding="max_length")
    assert processor(text=["red"], return_tensors="pt")["input_ids"].tolist() == [[2, 4, 3, 0, 0]]


@pytest.mark.parametrize(
    "tokenizer", [bert_tokenizer, clip_tokenizer, siglip2_tokenizer, ByT5Tokenizer], ids=lambda make: make.__name__
)
def test_titles_in_any_script(tokenizer):
    processor = EClipProcessor(image_processor(), tokenizer(), max_title_length=12)
    batch = processor(text=[*TITLES, "신발 👟 " * 2_000], return_tensors="pt")
    assert batch["input_ids"].shape == (len(TITLES) + 1, 12)
    assert "token_type_ids" not in batch
    single = [processor(text=title)["input_ids"] for title in TITLES]
    real = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert real[:-1] == single


def test_names_and_decoding(processor):
    assert sorted(processor.model_input_names) == ["attention_mask", "input_ids", "pixel_values"]
    ids = processor(text=["red shoe"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["red shoe"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "red shoe"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_title_length": 0}, "max_title_length=0: .* 2 special tokens"),
        ({"max_title_length": 2}, "max_title_length=2"),
        ({"max_title_length": 8.0}, "max_title_length=8.0"),
        ({"max_title_length": True}, "max_title_length=True"),
        ({"title_padding": "longst"}, "title_padding='longst'"),
        ({"title_padding": None}, "title_padding=None"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        EClipProcessor(image_processor(), bert_tokenizer(), **settings)


def test_tokenizer_without_a_padding_token():
    def tokenizer():
        words = Tokenizer(models.WordLevel({"<unk>": 0, "red": 1}, unk_token="<unk>"))
        return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")

    with pytest.raises(ValueError, match="no padding token. Set tokenizer.pad_token"):
        EClipProcessor(image_processor(), tokenizer())
    assert EClipProcessor(image_processor(), tokenizer(), title_padding=False)(text="red")["input_ids"] == [1]
    mended = tokenizer()
    mended.pad_token = mended.unk_token
    assert EClipProcessor(image_processor(), mended)(text=["red"])["input_ids"] == [[1]]


def test_save_and_load(tmp_path):
    processor = EClipProcessor(image_processor(), bert_tokenizer(), max_title_length=7, title_padding="max_length")
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["max_title_length"] == 7 and saved["title_padding"] == "max_length"
    assert "max_title_length" not in (tmp_path / "tokenizer_config.json").read_text()

    loaded = EClipProcessor.from_pretrained(tmp_path)
    assert (loaded.max_title_length, loaded.title_padding) == (7, "max_length")
    given = {"text": ["red shoe", ""], "images": [Image.new("RGB", (5, 9), "red")] * 2, "return_tensors": "pt"}
    expected = processor(**given)
    for name, values in loaded(**given).items():
        assert torch.equal(values, expected[name])

    other = EClipProcessor.from_pretrained(tmp_path, max_title_length=5, title_padding=False)
    assert (other.max_title_length, other.title_padding) == (5, False)
    assert "max_title_length" not in other.tokenizer.init_kwargs
    other.save_pretrained(tmp_path / "other")
    again = EClipProcessor.from_pretrained(str(tmp_path / "other"))
    assert (again.max_title_length, again.title_padding) == (5, False)


def test_fresh_process_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(EClipProcessor, "_auto_class", "AutoProcessor")
    processor = EClipProcessor(image_processor(), bert_tokenizer(), max_title_length=6)
    folder = tmp_path / "checkpoint"
    processor.save_pretrained(folder)
    assert {"images_eclip.py", "processing_eclip.py"} <= set(os.listdir(folder))
    # A checkpoint's folder has the model's config beside, of a type that transformers alone does not know.
    (folder / "config.json").write_text(json.dumps({"model_type": "eclip"}))
    Image.new("RGBA", (9, 5), (200, 0, 0, 90)).save(tmp_path / "image.png")
    inputs = {"text": ["red shoe", "shoe 한국"], "images": [str(tmp_path / "image.png")]}
    program = (
        "import json, sys\n"
        "sys.modules['modeling_eclip'] = None\n"  # were it installed, it would not be found
        "import torch\n"
        "from transformers import AutoProcessor\n"
        "processor = AutoProcessor.from_pretrained('../checkpoint', trust_remote_code=True)\n"
        "assert type(processor).__name__ == 'EClipProcessor', type(processor)\n"
        "batch = processor(**json.loads(sys.argv[1]), return_tensors='pt')\n"
        "torch.save(dict(batch), 'batch.pt')\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, json.dumps(inputs)],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    batch = torch.load(elsewhere / "batch.pt")
    expected = processor(**inputs, return_tensors="pt")
    assert set(batch) == set(expected)
    for name, values in batch.items():
        assert torch.equal(values, expected[name])


def assert_same_inputs(ours: dict, theirs: dict):
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        assert torch.equal(ours[name], values), name


IMAGES = [Image.new("RGB", (40, 30), "red"), Image.new("RGB", (30, 50), "blue")]


def test_from_a_clip_checkpoint(tmp_path):
    source = CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32), clip_tokenizer())
    source.save_pretrained(tmp_path)
    CLIPConfig(text_config={**SMALL, "max_position_embeddings": 20}, vision_config=SMALL).save_pretrained(tmp_path)
    processor = EClipProcessor.from_pretrained(tmp_path)
    assert (processor.max_title_length, processor.title_padding) == (20, True)
    given = {"text": ["red shoe", "x"], "images": IMAGES, "return_tensors": "pt"}
    assert_same_inputs(processor(**given), source(**given, padding=True))
    # The tokenizer states no limit, the text tower has 20 positions.
    assert processor(text="x" * 50, return_tensors="pt")["input_ids"].shape == (1, 20)

    processor.save_pretrained(tmp_path / "ours")
    assert_same_inputs(EClipProcessor.from_pretrained(tmp_path / "ours")(**given), source(**given, padding=True))


@pytest.mark.parametrize("with_config", [True, False], ids=["checkpoint", "processor-only"])
def test_from_a_siglip_checkpoint(tmp_path, with_config):
    # SigLIP 2 checkpoints of one resolution are SigLIP models with another tokenizer.
    source = SiglipProcessor(SiglipImageProcessorPil(size={"height": 32, "width": 32}), siglip2_tokenizer())
    source.save_pretrained(tmp_path)
    if with_config:
        SiglipConfig(text_config=SMALL, vision_config=SMALL).save_pretrained(tmp_path)
    processor = EClipProcessor.from_pretrained(tmp_path)
    assert (processor.max_title_length, processor.title_padding) == (64, "max_length")
    given = {"text": ["Red shoe", "x" * 100], "images": IMAGES, "return_tensors": "pt"}
    ours = processor(**given)
    assert ours["input_ids"].shape == (2, 64)
    assert_same_inputs(ours, source(**given, padding="max_length", truncation=True, max_length=64))
    assert EClipProcessor.from_pretrained(tmp_path, max_title_length=8)(text="x", return_tensors="pt")[
        "input_ids"
    ].shape == (1, 8)


def test_from_a_siglip2_checkpoint_of_any_aspect(tmp_path):
    source = Siglip2Processor(Siglip2ImageProcessorPil(), siglip2_tokenizer())
    source.save_pretrained(tmp_path)
    Siglip2Config(text_config=SMALL, vision_config=SMALL).save_pretrained(tmp_path)
    processor = EClipProcessor.from_pretrained(tmp_path)
    assert (processor.max_title_length, processor.title_padding) == (64, "max_length")
    given = {"text": ["Red shoe", "x"], "images": IMAGES, "return_tensors": "pt"}
    ours = processor(**given)
    assert {"pixel_values", "pixel_attention_mask", "spatial_shapes"} <= set(ours)
    assert ours["pixel_values"].shape == (2, 256, 16 * 16 * 3)
    assert_same_inputs(ours, source(**given))
    assert "spatial_shapes" in processor.model_input_names

    processor.save_pretrained(tmp_path / "ours")
    assert_same_inputs(EClipProcessor.from_pretrained(tmp_path / "ours")(**given), source(**given))


def test_from_towers_of_a_siglip_text_tower(tmp_path):
    image_processor().save_pretrained(tmp_path / "vision")
    siglip2_tokenizer().save_pretrained(tmp_path / "text")
    config = SiglipConfig(text_config={**SMALL, "max_position_embeddings": 16}, vision_config=SMALL)
    config.text_config.save_pretrained(tmp_path / "text")
    processor = EClipProcessor.from_towers(tmp_path / "vision", tmp_path / "text")
    assert (processor.max_title_length, processor.title_padding) == (16, "max_length")
    bert_tokenizer().save_pretrained(tmp_path / "bert")
    processor = EClipProcessor.from_towers(str(tmp_path / "vision"), str(tmp_path / "bert"), max_title_length=9)
    assert (processor.max_title_length, processor.title_padding) == (9, True)


@pytest.mark.parametrize(
    ("stock", "expected"),
    [
        (ViTImageProcessorPil(), {"size": {"height": 24, "width": 24}}),
        (SiglipImageProcessorPil(), {"size": {"height": 24, "width": 24}}),
        (EfficientNetImageProcessorPil(), {"size": {"height": 24, "width": 24}}),
        # 256 was cropped to 224; 24 * 256 / 224 = 27.4.
        (BitImageProcessorPil(size={"shortest_edge": 256}, crop_size=224), {"size": {"shortest_edge": 27}}),
        (CLIPImageProcessorPil(), {"size": {"shortest_edge": 24}}),
        (ConvNextImageProcessorPil(), {"size": {"shortest_edge": 24}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_image_size(stock, expected, tmp_path):
    stock.save_pretrained(tmp_path / "vision")
    bert_tokenizer().save_pretrained(tmp_path / "text")
    processor = EClipProcessor.from_towers(tmp_path / "vision", tmp_path / "text", image_size=24)
    assert processor.image_processor.to_dict()["size"] == expected["size"]
    assert processor(images=IMAGES, return_tensors="pt")["pixel_values"].shape == (2, 3, 24, 24)
    processor.save_pretrained(tmp_path / "both")
    again = EClipProcessor.from_pretrained(tmp_path / "both")
    assert again(images=IMAGES, return_tensors="pt")["pixel_values"].shape == (2, 3, 24, 24)
    if stock.default_to_square:  # height and width
        rectangle = EClipProcessor.from_towers(tmp_path / "vision", tmp_path / "text", image_size=(24, 40))
        assert rectangle(images=IMAGES, return_tensors="pt")["pixel_values"].shape == (2, 3, 24, 40)


def test_image_size_that_cannot_be_had(tmp_path):
    bert_tokenizer().save_pretrained(tmp_path / "text")
    for name, stock in {"naflex": Siglip2ImageProcessorPil(), "fixed": ViTImageProcessorPil(do_resize=False)}.items():
        stock.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match="image_size=24: the .* cannot be set"):
            EClipProcessor.from_towers(tmp_path / name, tmp_path / "text", image_size=24)
    with pytest.raises(ValueError, match="image_size=0"):
        EClipProcessor.from_towers(tmp_path / "fixed", tmp_path / "text", image_size=0)


@pytest.mark.skipif(not TOWERS.is_dir(), reason="needs the small pretrained towers in ../shared/towers")
def test_from_the_small_pretrained_towers():
    vision, text = TOWERS / "efficientnet-lite0", TOWERS / "minilm-l6"
    processor = EClipProcessor.from_towers(vision, text, image_size=128, max_title_length=32)
    batch = processor(text=["red " * 99, "shoe"], images=IMAGES, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 32) and batch["pixel_values"].shape == (2, 3, 128, 128)
    # Their pixels are (x - 127) / 128: red is (255, 0, 0).
    expected = torch.tensor([1.0, -127 / 128, -127 / 128])
    torch.testing.assert_close(batch["pixel_values"][0, :, 5, 5], expected)
    stock = AutoImageProcessor.from_pretrained(vision)(IMAGES, return_tensors="pt")["pixel_values"]
    own_size = EClipProcessor.from_towers(vision, text)(images=IMAGES, return_tensors="pt")["pixel_values"]
    assert torch.equal(own_size, stock)


def test_auto_processor_knows_the_class_where_the_package_is_imported(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "eclip"}))
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), EClipProcessor)


def kinds_of(title):
    """Return the number of n-grams of each kind that a title has."""
    ids = lexical_ids([title])[0]
    kinds = (ids[ids < LEXICAL_PADDING] >> LEXICAL_BITS).tolist()
    return {name: kinds.count(kind) for kind, name in enumerate(LEXICAL_KINDS) if kind in kinds}


def test_lexical_ids_by_hand():
    # Words: sony, dsc, w120, 7.2, mp.
    expected = {
        "words": 5,
        "word pairs": 4,
        "3-grams": len({" sony dsc w120 7.2 mp "[start : start + 3] for start in range(20)}),
        "words with digits": 2,
        "numbers": 2,  # 120, 7.2
        "codes": 1,  # w120
        "closed up": len("sonydscw12072mp") - 3,
        "first word": 1,
    }
    assert kinds_of("Sony DSC-W120  7.2 MP") == expected
    assert torch.equal(*(lexical_ids([title]) for title in ("Sony DSC-W120", "ＳＯＮＹ dsc w120")))


def test_lexical_ids_are_sorted_and_padded_and_of_any_script():
    titles = ["신발 나이키 270", "", None, "x" * 5000, " ".join(str(number) for number in range(500)), "½ ß İ ﬁ"]
    ids = lexical_ids(titles)
    assert ids.shape == (6, 1024) and ids.dtype == torch.int32
    assert bool((ids.diff(dim=1) >= 0).all())
    assert bool((ids[1:3] == LEXICAL_PADDING).all())
    real = ids[0][ids[0] < LEXICAL_PADDING]
    assert len(real.unique()) == len(real) > 10
    assert int((ids[4] < LEXICAL_PADDING).sum()) <= 1024
    # Vowel signs are part of a word; how an emoji looks is none.
    assert kinds_of("हिन्दी जूता")["words"] == 2 and kinds_of("👟\ufe0f red 1\ufe0f\u20e3")["words"] == 2
    assert not torch.equal(*lexical_ids(["कि", "का"]))


def test_a_processor_gives_lexical_ids_where_it_is_asked_to(tmp_path):
    processor = EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), bert_tokenizer())
    assert "lexical_ids" not in processor(text="red shoe", return_tensors="pt")
    processor.lexical_features = True
    processor.save_pretrained(tmp_path)
    loaded = EClipProcessor.from_pretrained(tmp_path)
    assert loaded.lexical_features and "lexical_ids" in loaded.model_input_names
    assert torch.equal(loaded(text="red shoe", return_tensors="pt")["lexical_ids"], lexical_ids(["red shoe"]))
    given = prepare_products(loaded, [("red shoe", None), (None, np.zeros((8, 8, 3), np.uint8))])
    assert torch.equal(given["lexical_ids"], lexical_ids(["red shoe", None]))
