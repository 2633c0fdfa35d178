"""EClipForCategoryClassification: levels, words, and sorting without any training."""

import pytest
import torch
from conftest import make_config, make_inputs
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import ViTImageProcessorPil

from modeling_eclip import CategoryOutput, EClipForCategoryClassification, EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.representation_eclip import zero_shot_logits

# Ragged, and the first path begins the second.
PATHS = [["Shoes"], ["Shoes", "Boots"], ["Bags", "Totes", "Canvas"], ["Bags", "Belts"]]


def make_head(**fields):
    torch.manual_seed(0)
    return EClipForCategoryClassification(make_config(category_paths=PATHS, **fields)).eval()


@pytest.fixture
def processor():
    """Return a processor of a few words."""
    tokenizer = train_title_tokenizer(["shoes boots bags"], vocab_size=300)
    return EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, max_title_length=16)


def test_output_has_the_documented_shapes():
    output = make_head()(**make_inputs(3), labels=torch.tensor([1, 3, 0]))
    assert isinstance(output, CategoryOutput)
    assert (output.loss.shape, output.logits.shape) == ((), (3, 4))
    assert (output.products.text.shape, output.products.image.shape) == ((3, 32), (3, 32))


def test_every_level_of_every_answer_is_consistent():
    head = make_head()
    logits = head(**make_inputs(4)).logits
    roots, middle, leaves = head.level_probabilities(logits)
    assert torch.equal(leaves, logits.softmax(dim=-1))
    assert [head.tree.nodes(0), roots.shape, middle.shape] == [[("Shoes",), ("Bags",)], (4, 2), (4, 4)]
    assert torch.equal(roots[:, 0], middle[:, 0] + middle[:, 1])
    for level in (roots, middle, leaves):
        torch.testing.assert_close(level.sum(dim=-1), torch.ones(4))


def test_answers_are_paths():
    head = make_head()
    logits = torch.tensor([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.1, 0.1]]).log()
    first, second = head.decode(logits, k=2)
    assert first == [(("Bags", "Totes", "Canvas"), pytest.approx(0.4)), (("Bags", "Belts"), pytest.approx(0.3))]
    assert second[0] == (("Shoes",), pytest.approx(0.7))
    assert [len(answers) for answers in head.decode(logits)] == [1, 1]
    assert [len(answers) for answers in head.decode(logits, k=9)] == [4, 4]
    head.config.review_below = {"category": 0.5}
    first, second = head.decode(logits, k=2)
    assert first == [(("sent to review",), pytest.approx(0.6)), (("Bags", "Totes", "Canvas"), pytest.approx(0.4))]
    assert second[0] == (("Shoes",), pytest.approx(0.7))
    assert [len(answers) for answers in head.decode(logits)] == [1, 1]
    head.config.review_below = {"category": None}
    assert [answers[0][0] for answers in head.decode(logits)] == [("sent to review",)] * 2


def test_a_checkpoint_knows_its_tree(tmp_path):
    make_head().save_pretrained(tmp_path)
    loaded = EClipForCategoryClassification.from_pretrained(tmp_path)
    assert loaded.tree.paths == [tuple(path) for path in PATHS]
    assert loaded.config.category_paths == PATHS
    assert loaded.config.id2label == {0: "Shoes", 1: "Shoes > Boots", 2: "Bags > Totes > Canvas", 3: "Bags > Belts"}
    assert loaded.config.label2id["Bags > Belts"] == 3
    assert loaded.config.num_labels == 4


def test_a_tree_is_asked_for(model, tmp_path):
    with pytest.raises(ValueError, match="`category_paths` is None"):
        EClipForCategoryClassification(make_config())
    model.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match=r"names \('Bags',\) more than once"):
        EClipForCategoryClassification.from_pretrained(tmp_path, category_paths=[["Bags"], ["Shoes"], ["Bags"]])


def test_label_smoothing_is_the_configured_one():
    inputs, labels = make_inputs(3), torch.tensor([0, 1, 2])
    output = make_head(modality="text", label_smoothing=0.2)(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels, label_smoothing=0.2))


def test_modality_dropout_only_in_training():
    head, inputs = make_head(modality_dropout=0.5), make_inputs(4)
    assert torch.equal(head(**inputs).logits, head(**inputs).logits)
    torch.manual_seed(0)
    embeds = head.train()(**inputs).products
    assert not (embeds.has_text & embeds.has_image).any()  # at a half, one modality of each product is hidden


def test_sorting_without_training(processor):
    config = make_config(category_paths=PATHS)
    config.text_config.vocab_size = len(processor.tokenizer)
    head = EClipForCategoryClassification(config).eval()
    embeds = head.embed_categories(processor)
    assert embeds.shape == (4, 16)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(4))
    # A product whose title is a category's only name is of that category.
    alone = head.embed_categories(processor, templates=["{leaf}"])
    titles = processor(text=["Boots", "Canvas", "Belts", "Shoes"], return_tensors="pt")
    output = head.zero_shot(alone, **titles)
    assert [path[0][0] for path in head.decode(output.logits)] == [tuple(PATHS[leaf]) for leaf in (1, 2, 3, 0)]
    torch.testing.assert_close(output.logits.max(dim=-1).values, head.eclip.logit_scale.exp().expand(4))


def test_zero_shot_is_the_mean_of_the_sides_that_there_are():
    head, inputs = make_head(), make_inputs(3)
    classes = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    base = head.eclip(**inputs)
    text, image = base.text_embeds @ classes.T, base.image_embeds @ classes.T
    embeds = head.represent(has_text=torch.tensor([1, 0, 1]), has_image=torch.tensor([1, 1, 0]), **inputs)
    logits = zero_shot_logits(head, classes, embeds)
    expected = torch.stack([(text[0] + image[0]) / 2, image[1], text[2]]) * head.eclip.logit_scale.exp()
    torch.testing.assert_close(logits, expected)
    images_alone = make_head(modality="image").zero_shot(classes, **inputs).logits
    torch.testing.assert_close(images_alone, image * head.eclip.logit_scale.exp())
