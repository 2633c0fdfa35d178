"""One way to represent a product: lengths, missing modalities, modality dropout; and what all heads have in common."""

import pytest
import torch
from conftest import make_config, make_inputs
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from modeling_eclip import EClipForAdultRecognition, EClipModel, ProductEmbeds
from modeling_eclip.representation_eclip import ProductRepresentation, modality_widths


@pytest.fixture
def head():
    """Return a small head on both modalities, in evaluation mode."""
    torch.manual_seed(0)
    return EClipForAdultRecognition(make_config()).eval()


def representation(**fields):
    """Return a representation whose embeddings of a missing modality are 5 for titles and 7 for images."""
    module = ProductRepresentation(make_config(**fields)).eval()
    if len(module.widths) == 2:
        nn.init.constant_(module.missing_text_embedding, 5.0)
        nn.init.constant_(module.missing_image_embedding, 7.0)
    return module


def features(batch_size=4):
    """Return vectors of a title tower and of an image tower; both are 32 wide."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 32, generator=generator), torch.randn(batch_size, 32, generator=generator) * 9


def test_vectors_have_the_length_of_their_width():
    text, image = features()
    embeds = representation()(text, image)
    assert isinstance(embeds, ProductEmbeds)
    torch.testing.assert_close(embeds.text, text / text.norm(dim=-1, keepdim=True) * 32**0.5)
    torch.testing.assert_close(embeds.image.pow(2).mean(dim=-1), torch.ones(4))
    assert embeds.has_text.tolist() == embeds.has_image.tolist() == [True] * 4


def test_cosine_of_joined_vectors_is_the_mean_of_the_modalities():
    text, image = features()
    joined = representation()(text, image).joined()
    assert joined.shape == (4, 64)
    cosine = nn.functional.cosine_similarity
    expected = (cosine(text[0], text[1], dim=0) + cosine(image[0], image[1], dim=0)) / 2
    torch.testing.assert_close(joined[0] @ joined[1], expected)
    torch.testing.assert_close(joined.norm(dim=-1), torch.ones(4))
    alone = representation(modality="text")(text).joined()
    torch.testing.assert_close(alone, nn.functional.normalize(text, dim=-1))


def test_a_missing_side_is_its_stand_in_whatever_stands_there():
    text, image = features()
    text[1], image[2] = float("nan"), float("inf")
    embeds = representation()(text, image, torch.tensor([1, 0, 1, 1]), torch.tensor([True, True, False, True]))
    assert embeds.text[1].tolist() == [5.0] * 32
    assert embeds.image[2].tolist() == [7.0] * 32
    assert embeds.has_text.tolist() == [True, False, True, True]
    assert embeds.has_image.tolist() == [True, True, False, True]
    assert torch.isfinite(embeds.joined()).all()
    torch.testing.assert_close(embeds.joined().norm(dim=-1), torch.ones(4))


def test_a_side_that_no_product_has_need_not_be_given():
    text, image = features()
    module = representation()
    assert module(text).image.tolist() == [[7.0] * 32] * 4
    assert module(text).has_image.tolist() == [False] * 4
    assert module(image_features=image).text.tolist() == [[5.0] * 32] * 4


def test_a_new_stand_in_says_nothing():
    module = ProductRepresentation(make_config())
    assert module.missing_text_embedding.tolist() == module.missing_image_embedding.tolist() == [0.0] * 32
    text, _ = features()
    joined = module.eval()(text).joined()
    torch.testing.assert_close(joined[:, :32], nn.functional.normalize(text, dim=-1))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_head_on_one_side_sees_only_that(modality):
    module = representation(modality=modality)
    assert list(module.parameters()) == []
    text, image = features()
    embeds = module(text, image)
    other = "image" if modality == "text" else "text"
    assert embeds[modality] is not None
    assert getattr(embeds, other) is getattr(embeds, f"has_{other}") is None
    assert list(embeds.modalities) == [modality]


def test_products_without_any_side_are_named():
    text, image = features()
    none = torch.tensor([True, True, False, True])
    with pytest.raises(ValueError, match=r"Product 2 of the batch \(1 of 4\) has neither title nor image"):
        representation()(text, image, none, none)
    with pytest.raises(ValueError, match=r"Product 2 of the batch \(1 of 4\) has neither title nor image"):
        representation()(text, None, none)
    with pytest.raises(ValueError, match="Product 2 of the batch .* has no image, and the head uses nothing else"):
        representation(modality="image")(text, image, has_image=none)
    with pytest.raises(ValueError, match="No product has title or image"):
        representation()()
    with pytest.raises(ValueError, match="No product has title, "):
        representation(modality="text")(image_features=image)


def test_modality_dropout_hides_either_side_and_never_both():
    torch.manual_seed(0)
    module = representation(modality_dropout=0.25).train()
    text, image = features(4000)
    has_text = torch.arange(4000) >= 1000  # the first thousand have nothing but an image
    embeds = module(text, image, has_text)
    assert not embeds.has_text[:1000].any() and embeds.has_image[:1000].all()
    hidden_text, hidden_image = ~embeds.has_text[1000:], ~embeds.has_image[1000:]
    assert not (hidden_text & hidden_image).any()
    # 3,000 draws of probability 1/4: a standard deviation of 0.008.
    assert hidden_text.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert hidden_image.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (embeds.text[1000:][hidden_text] == 5).all()
    assert module.eval()(text, image).has_text.all()


def test_stand_ins_learn():
    text, image = features()
    module = ProductRepresentation(make_config()).train()
    module(text, image, torch.tensor([True, False, True, True])).text.sum().backward()
    assert (module.missing_text_embedding.grad >= 1).all()
    # Nothing missing, nothing hidden: no gradient but zero, which distributed training waits for.
    module = ProductRepresentation(make_config(modality_dropout=0.0)).train()
    module(text, image).joined().sum().backward()
    assert module.missing_image_embedding.grad.tolist() == [0.0] * 32


def test_represent_runs_the_towers_that_are_looked_at(head, monkeypatch):
    inputs = make_inputs(3)
    embeds = head.represent(**inputs)
    base = head.eclip(**inputs)
    text, image = base.text_model_output.pooler_output, base.vision_model_output.pooler_output
    torch.testing.assert_close(embeds.text, nn.functional.normalize(text, dim=-1) * 32**0.5)
    torch.testing.assert_close(embeds.image, nn.functional.normalize(image, dim=-1) * 32**0.5)
    cached = head.represent(text_pooler_output=text, image_pooler_output=image)
    assert torch.equal(cached.text, embeds.text) and torch.equal(cached.image, embeds.image)
    of_titles = EClipForAdultRecognition(make_config(modality="text")).eval()
    monkeypatch.setattr(of_titles.eclip, "encode_image", None)
    assert of_titles.represent(**inputs).image is None


def test_what_stands_for_a_missing_title_does_not_matter(head):
    inputs = make_inputs(3)
    has_text = torch.tensor([True, False, True])
    logits = head(**inputs, has_text=has_text).logits
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][1] = 0
    other["attention_mask"] = inputs["attention_mask"] * has_text.unsqueeze(1)
    torch.testing.assert_close(head(**other, has_text=has_text).logits, logits)
    alone = head(pixel_values=inputs["pixel_values"][1:2]).logits
    torch.testing.assert_close(alone, logits[1:2])


def test_a_row_of_padding_gives_finite_gradients(head):
    inputs = make_inputs(3)
    inputs["attention_mask"][1] = 0
    head.train()(**inputs, has_text=torch.tensor([1, 0, 1]), labels=torch.tensor([0, 1, 1])).loss.backward()
    gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_fields_given_one_by_one_are_checked(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="`modality_dropout` is 0.6"):
        EClipForAdultRecognition.from_pretrained(tmp_path, modality_dropout=0.6)


def test_base_and_head_load_each_other(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    head, info = EClipForAdultRecognition.from_pretrained(tmp_path / "base", output_loading_info=True)
    new = {
        "representation.missing_text_embedding",
        "representation.missing_image_embedding",
        "classifier.fusion_scale",
    }
    assert new <= info["missing_keys"]
    assert all(key.startswith(("representation.", "classifier.")) for key in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert head.representation.missing_text_embedding.tolist() == [0.0] * 32
    assert head.classifier.fusion_scale.tolist() == [0.5, 0.5]
    head.save_pretrained(tmp_path / "head")
    again, info = EClipModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    weights = model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_side_widths_follow_the_modality():
    config = make_config(vision="efficientnet")
    assert modality_widths(config) == {"text": 32, "image": 1280}
    assert modality_widths(make_config(vision="efficientnet", modality="image")) == {"image": 1280}
