"""Stock classes of transformers give what the model gave, where the package is not."""

import json
import subprocess
import sys

import pytest
import torch
from call_script import call_script
from conftest import (
    IMAGE_SIZE,
    TRANSFORMER,
    WITHOUT_PACKAGE,
    make_config,
    make_inputs,
    noise_image,
    save_checkpoint,
    wake,
)
from tokenizers import pre_tokenizers
from transformers import (
    AutoProcessor,
    BertTokenizer,
    CLIPImageProcessorPil,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2ImageProcessorPil,
    Siglip2Tokenizer,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from modeling_eclip.export.stock import save_stock, stock_model, stock_processor
from training import export
from training.embedding import export_checkpoint

TITLES = ["a red shoe", "shoe", "a very long title of a red shoe and a blue shirt, of wool"]
SIZE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
# Its processor's own are 256 patches of 16 px; the stock class insists on them unless it is told otherwise.
FLEXIBLE = {"model_type": "siglip2_vision_model", **TRANSFORMER, "patch_size": 8, "num_patches": 16}


def clip_tokenizer():
    letters = [letter + end for end in ("", "</w>") for letter in sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = [*letters, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])


def siglip_tokenizer():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    return Siglip2Tokenizer(vocab=vocab, merges=[], padding_side="right")


def bert_tokenizer():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "shoe", "shirt", "of", "long", "title"]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(pieces)})


def build(kind, **fields):
    """Return a model with weights of its own and its processor: titles of 12 tokens, which one title exceeds."""
    towers = {
        "clip": ("clip_vision_model", "clip_text_model", clip_tokenizer, CLIPImageProcessorPil(crop_size=SIZE)),
        "siglip": ("siglip_vision_model", "siglip_text_model", siglip_tokenizer, SiglipImageProcessorPil(size=SIZE)),
        "siglip2": (
            "siglip_vision_model",
            "siglip_text_model",
            siglip_tokenizer,
            Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
        ),
        "dual": ("vit", "bert", bert_tokenizer, ViTImageProcessorPil(size=SIZE)),
    }
    vision, text, make_tokenizer, image_processor = towers[kind]
    tokenizer, is_siglip = make_tokenizer(), kind.startswith("siglip")
    fields = {"text_pooling": "pooler", **({"projection_dim": 32} if is_siglip else {}), **fields}
    config = make_config(vision, text, **fields)
    if kind == "siglip2":
        titles = {**config.text_config.to_dict(), "model_type": "siglip2_text_model"}
        config = EClipConfig(vision_config=FLEXIBLE, text_config=titles, **fields)
    config.text_config.vocab_size = len(tokenizer)
    if kind == "clip":
        config.text_config.eos_token_id = tokenizer.eos_token_id
    processor = EClipProcessor(
        image_processor, tokenizer, max_title_length=12, title_padding="max_length" if is_siglip else True
    )
    generator = torch.Generator().manual_seed(0)
    model = EClipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.logit_scale.fill_(3.0)
        if is_siglip:  # as `from_clip` leaves it, and training that holds it
            torch.nn.init.eye_(model.visual_projection.weight)
    return model, processor


# Runs where neither the package nor its code is, on products that it prepares itself.
STRANGER = (
    WITHOUT_PACKAGE
    + """
import json
import torch
from transformers import AutoModel, AutoProcessor
titles, images, *folders = sys.argv[1:]
for folder in folders:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=json.loads(titles), images=torch.load(images, weights_only=False), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
        text = model.get_text_features(**{k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")})
        image = model.get_image_features(
            **{k: v for k, v in inputs.items() if k.startswith("pixel") or k == "spatial_shapes"}
        )
    torch.save({"text": text.pooler_output, "image": image.pooler_output, "logits": outputs.logits_per_text,
                "text_embeds": outputs.text_embeds, "image_embeds": outputs.image_embeds, "inputs": dict(inputs),
                "names": [type(part).__name__ for part in (model, processor)]}, folder + ".pt")
"""
)

CLASSES = {
    "clip": ["CLIPModel", "CLIPProcessor"],
    "siglip": ["SiglipModel", "SiglipProcessor"],
    "siglip2": ["Siglip2Model", "Siglip2Processor"],
    "dual": ["VisionTextDualEncoderModel", "VisionTextDualEncoderProcessor"],
}


def test_a_stranger_without_remote_code_gets_equal_inputs_features_and_logits(tmp_path):
    built = {kind: build(kind) for kind in CLASSES}
    for kind, (model, processor) in built.items():
        # As training leaves them: saved with the code of this package, and loaded again.
        processor.save_pretrained(tmp_path / "own")
        processor = EClipProcessor.from_pretrained(tmp_path / "own")
        save_stock(stock_model(model), stock_processor(processor, model.config), tmp_path / kind)
        for file in (tmp_path / kind).iterdir():
            assert file.suffix in (".json", ".safetensors", ".txt", ".jinja")
            assert file.suffix != ".json" or "eclip" not in file.read_text().lower(), file
    images = [noise_image(place) for place in range(3)]
    torch.save(images, tmp_path / "images")
    folders = [str(tmp_path / kind) for kind in CLASSES]
    (tmp_path / "elsewhere").mkdir()
    arguments = [sys.executable, "-c", STRANGER, json.dumps(TITLES), str(tmp_path / "images"), *folders]
    subprocess.run(arguments, check=True, cwd=tmp_path / "elsewhere")
    for kind, (model, processor) in built.items():
        theirs = torch.load(tmp_path / f"{kind}.pt")
        assert theirs["names"] == CLASSES[kind]
        inputs = processor(text=TITLES, images=images, return_tensors="pt")
        assert inputs["input_ids"].shape == (3, 12), "one title is cut"
        assert theirs["inputs"].keys() == inputs.keys()
        for name, value in inputs.items():
            assert torch.equal(theirs["inputs"][name], value), (kind, name)
        with torch.no_grad():
            ours = model(**inputs)
            features = {
                "text": model.get_text_features(
                    **{k: inputs[k] for k in ("input_ids", "attention_mask") if k in inputs}
                ),
                "image": model.get_image_features(
                    **{k: v for k, v in inputs.items() if k.startswith("pixel") or k == "spatial_shapes"}
                ),
            }
        for name, output in features.items():
            # Relative to their length, which the towers choose; float32 rounds to 1e-7 of it.
            scale = output.pooler_output.abs().max()
            torch.testing.assert_close(theirs[name] / scale, output.pooler_output / scale, rtol=0, atol=1e-5)
            assert output.pooler_output.std(dim=0).max() / scale > 1e-3, "products differ"
        for name in ("text_embeds", "image_embeds"):
            torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=1e-5)
        # Cosines times e^3.
        torch.testing.assert_close(theirs["logits"], ours.logits_per_text, rtol=0, atol=1e-5 * 21)


def test_servers_that_pad_and_cut_by_themselves_give_the_same_inputs():
    for kind in CLASSES:
        model, processor = build(kind)
        loaded = stock_processor(processor, model.config)
        for titles in (["shoe"], TITLES):  # alone, a title is the longest of its batch
            found = loaded(text=titles, padding=True, truncation=True, max_length=12, return_tensors="pt")
            expected = processor(text=titles, return_tensors="pt")
            assert torch.equal(found["input_ids"], expected["input_ids"]), (kind, titles)


def test_transformers_4_knows_the_classes_that_the_files_name(tmp_path):
    for kind in CLASSES:
        model, processor = build(kind)
        if kind == "dual":  # loaded from `tokenizer.json` alone, as tokenizers are that were trained here
            processor.tokenizer = PreTrainedTokenizerFast(
                tokenizer_object=processor.tokenizer._tokenizer, pad_token="[PAD]"
            )
        save_stock(stock_model(model), stock_processor(processor, model.config), tmp_path / kind)
        saved = json.loads((tmp_path / kind / "tokenizer_config.json").read_text())
        names = {"clip": "CLIPTokenizer"}
        assert saved["tokenizer_class"] == names.get(kind, "PreTrainedTokenizerFast")
        assert saved["pad_token"] == processor.tokenizer.pad_token
        assert (tmp_path / kind / "preprocessor_config.json").exists()


def test_the_way_back_gives_the_same_embeddings(tmp_path):
    for kind in ("clip", "siglip"):
        model, _ = build(kind)
        stock_model(model).save_pretrained(tmp_path / kind)
        back = EClipModel.from_clip(str(tmp_path / kind))
        with torch.no_grad():
            inputs = make_inputs(3)
            torch.testing.assert_close(back(**inputs).text_embeds, model(**inputs).text_embeds, rtol=0, atol=1e-5)
        assert back.logit_scale.item() == 3.0


def test_the_bias_of_a_sigmoid_goes_where_there_is_a_place_for_it(tmp_path):
    inputs = make_inputs(3)
    for kind in ("siglip", "clip"):
        model, _ = build(kind, loss="sigmoid")
        torch.nn.init.constant_(model.logit_bias, -7.5)
        stock_model(model).save_pretrained(tmp_path / kind)
        stock = type(stock_model(model)).from_pretrained(tmp_path / kind)
        with torch.no_grad():
            ours, theirs = model(**inputs).logits_per_image, stock(**inputs).logits_per_image
        lacking = 0.0 if kind == "siglip" else -7.5
        torch.testing.assert_close(theirs + lacking, ours, rtol=0, atol=1e-5 * 21)
    back = EClipModel.from_clip(str(tmp_path / "siglip"), loss="sigmoid")
    assert (back.logit_scale.item(), back.logit_bias.item()) == (3.0, -7.5)


@pytest.mark.parametrize("vision", ["dinov2", "swin", "convnext", "efficientnet", "clip_vision_model"])
def test_other_image_towers_in_a_dual_encoder(vision, tmp_path):
    torch.manual_seed(0)
    model = wake(EClipModel(make_config(vision, "bert", text_pooling="pooler")))
    stock_model(model).save_pretrained(tmp_path)
    loaded = type(stock_model(model)).from_pretrained(tmp_path)
    inputs = make_inputs(3)
    with torch.no_grad():
        ours, theirs = model(**inputs), loaded(**inputs)
    torch.testing.assert_close(theirs.image_embeds, ours.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.logits_per_text, ours.logits_per_text, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("vision", "text", "fields", "reason"),
    [
        ("vit", "bert", {"text_pooling": "mean"}, "`text_pooling` is 'mean'.*train with `text_pooling: pooler`"),
        (
            "clip_vision_model",
            "clip_text_model",
            {"vision_pooling": "cls"},
            "'cls', but CLIPModel reads",
        ),
        (
            "siglip_vision_model",
            "siglip_text_model",
            {"projection_dim": 32},
            "`visual_projection` is not",
        ),
        ("siglip_vision_model", "siglip_text_model", {"projection_dim": 16}, "train with `--freeze"),
        ("vit", "siglip_text_model", {}, "none for 'siglip_text_model' alone"),
        ("resnet", "bert", {"text_pooling": "pooler"}, "takes no map as the pooled output, which 'resnet' gives"),
    ],
)
def test_what_no_stock_class_does_is_refused_with_the_reason(vision, text, fields, reason):
    with pytest.raises(ValueError, match=reason):
        stock_model(EClipModel(make_config(vision, text, **fields)))


def test_flexible_images_do_not_fit_a_dual_encoder():
    text = make_config().text_config.to_dict()
    model = EClipModel(EClipConfig(vision_config=FLEXIBLE, text_config=text, text_pooling="pooler"))
    with pytest.raises(ValueError, match="neither masks nor sizes of images, which 'siglip2_vision_model' needs"):
        stock_model(model)


def test_the_script_leaves_a_stock_folder_and_what_it_measured(tmp_path):
    model, processor = build("siglip")
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "stock"), "--train_data"]
    words += ["toy", "--toy_offers", "120", "--num_workers", "0", "--format", "transformers"]
    call_script(export.main, words)
    report = json.loads((tmp_path / "stock" / "agreement.json").read_text())
    assert report["classes"] == CLASSES["siglip"] and report["products"] > 5
    loaded = AutoProcessor.from_pretrained(tmp_path / "stock")
    inputs, expected = (
        each(text=TITLES, images=[noise_image(0)], return_tensors="pt") for each in (loaded, processor)
    )
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    older = json.loads((tmp_path / "stock" / "preprocessor_config.json").read_text())
    assert older["size"] == SIZE and older["image_processor_type"] == "SiglipImageProcessor"
    for name in ("text_embeds", "image_embeds"):
        assert report["agreement"][name]["max_abs_difference"] < 1e-5
    with pytest.raises(SystemExit, match="`part` 'text'.*holds both parts"):
        call_script(export.main, [*words, "--part", "text"])


def test_a_stock_processor_takes_images_of_every_mode():
    model, processor = build("clip")
    processor.image_processor.do_convert_rgb = None  # as that of a tower without pretrained weights
    stock = stock_processor(processor, model.config)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1"):
        pixels = stock(images=[noise_image(0).convert(mode)], return_tensors="pt").pixel_values
        assert pixels.shape[1] == 3, mode
    assert processor.image_processor.do_convert_rgb is None


def test_the_script_tells_of_a_bias_that_has_no_place(tmp_path, caplog):
    model, processor = build("clip", loss="sigmoid")
    torch.nn.init.constant_(model.logit_bias, -7.5)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "stock"), "--train_data"]
    words += ["toy", "--toy_offers", "60", "--num_workers", "0", "--format", "transformers"]
    call_script(export.main, words)
    assert "CLIPModel has no place for the `logit_bias` of a sigmoid: add -7.5000 to its logits" in caplog.text
    assert json.loads((tmp_path / "stock" / "agreement.json").read_text())["logit_bias_left_out"] == -7.5


def test_the_script_refuses_before_it_reads_products(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint")  # titles of a mean
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "stock")]
    monkeypatch.setattr(export_checkpoint, "read_batches", None)  # calling it would be another error
    with pytest.raises(SystemExit, match="`text_pooling` is 'mean'"):
        call_script(export.main, [*words, "--format", "transformers"])
    assert not (tmp_path / "stock").exists()
