"""Models and heads in quantised weights: towers compute in a floating type, whatever type weights are stored in."""

import pytest
import torch
from conftest import make_config, make_inputs, save_checkpoint
from transformers import BitsAndBytesConfig, TorchAoConfig

from modeling_eclip import (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
    EClipModel,
)

HEADS = {
    EClipForAdultRecognition: {},
    EClipForAttributeExtraction: {"attributes": {"colour": ["blue", "red", "not stated"]}},
    EClipForCategoryClassification: {"category_paths": [["Shoes"], ["Bags"], ["Lamps"]]},
    EClipForProductClustering: {},
    EClipForProductMatching: {},
}


def bitsandbytes_config(**fields):
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(**fields)


def torchao_config(name):
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(getattr(quantization, name)())


# How weights are quantised, and the least mean cosine to what the same weights say in float32, of answers less their
# mean: 4 bits of weights as small as these keep less, and a tower that reads noise keeps none.
CONFIGS = {
    "8 bits": (lambda: bitsandbytes_config(load_in_8bit=True), 0.9),
    "4 bits": (lambda: bitsandbytes_config(load_in_4bit=True), 0.6),
    "torchao": (lambda: torchao_config("Int8WeightOnlyConfig"), 0.9),
    "torchao dynamic": (lambda: torchao_config("Int8DynamicActivationInt8WeightConfig"), 0.9),
}


def quantised(model_class, folder, way):
    if way == "torch":
        model = model_class.from_pretrained(folder).eval()
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    config = CONFIGS[way][0]()
    return model_class.from_pretrained(folder, quantization_config=config, device_map="cpu").eval()


def answers(model, inputs):
    """Return what a head says of each row, float32, shape `(B, numbers)`."""
    if isinstance(model, EClipForProductMatching):
        inputs = {name: torch.stack([value, value.roll(1, 0)], dim=1) for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
    if isinstance(model, EClipForProductClustering):
        return output.embeds
    assert len(model.decode(output.logits)) == len(inputs["input_ids"])
    logits = torch.cat(list(output.logits.values()), 1) if isinstance(output.logits, dict) else output.logits
    return logits.reshape(len(logits), -1)


def cosines(found, expected):
    centre = expected.mean(dim=0)
    return torch.nn.functional.normalize(found - centre), torch.nn.functional.normalize(expected - centre)


every_way = pytest.mark.parametrize("way", ["torch", *CONFIGS])


@every_way
@pytest.mark.parametrize("vision", ["vit", "clip_vision_model", "siglip_vision_model", "dinov2", "swin"])
def test_vectors_stay_nearest_to_their_own(vision, way, tmp_path):
    torch.manual_seed(0)
    model = EClipModel(make_config(vision)).eval()
    model.save_pretrained(tmp_path)
    inputs = make_inputs(32)
    # A colour each: all images of noise look alike to new weights, and 4 bits hold no more than that.
    inputs["pixel_values"] += 3 * torch.randn(32, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(**inputs)
        found = quantised(EClipModel, tmp_path, way)(**inputs)
    kept = {}
    for name in ("text_embeds", "image_embeds"):
        left, right = cosines(found[name].float(), expected[name])
        kept[name] = ((left @ right.T).argmax(dim=1) == torch.arange(32)).float().mean().item()
    # Of 32 numbers a row, 4 bits keep little in some families; a tower that reads noise keeps 3 % of 32 rows.
    assert min(kept.values()) >= (0.5 if way == "4 bits" else 0.9), kept


@every_way
@pytest.mark.parametrize("head_class", HEADS, ids=lambda head_class: head_class.__name__)
def test_heads_answer_and_are_saved(head_class, way, tmp_path):
    head, processor = save_checkpoint(tmp_path / "head", head_class, **HEADS[head_class])
    inputs = make_inputs(32)
    compressed = quantised(head_class, tmp_path / "head", way)
    found = answers(compressed, inputs)
    left, right = cosines(found, answers(head, inputs))
    assert (left * right).sum(dim=1).mean() > (0.9 if way == "torch" else CONFIGS[way][1])
    products = ["a mug", {"text": "red shoes", "image": torch.zeros(3, 32, 32, dtype=torch.uint8)}]
    embeds = compressed.represent_products(processor, products)
    if hasattr(head, "zero_shot"):
        embed = getattr(compressed, "embed_categories", None) or compressed.embed_values
        compressed.zero_shot(embed(processor), embeds)
    if way == "torch":  # transformers saves what it has quantised itself; torch's own layers are saved by torch
        state = compressed.state_dict()
        torch.save(state, tmp_path / "state.pt")
        restored = quantised(head_class, tmp_path / "head", way)
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    else:
        compressed.save_pretrained(tmp_path / "saved")
        restored = head_class.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(answers(restored, inputs), found)
