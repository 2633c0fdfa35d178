"""LateFusionClassifier: the answer of each modality, the joined one, the loss, and how the joining is fitted."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_eclip import ProductEmbeds
from modeling_eclip.fitting.fusion import fit_fusion
from modeling_eclip.fusion_eclip import LateFusionClassifier, mean_cross_entropy, select_products
from training.arguments.finetune import FinetuneArguments
from training.tasks.classifier_task import ClassifierTask
from training.tasks.features import Represented

WIDTHS = {"text": 3, "image": 5}


def make_classifier(widths=WIDTHS, num_classes=4):
    torch.manual_seed(0)
    return LateFusionClassifier(widths, num_classes)


def make_embeds(batch_size=6, has_text=None, has_image=None):
    generator = torch.Generator().manual_seed(1)
    everywhere = torch.ones(batch_size, dtype=torch.bool)
    return ProductEmbeds(
        text=torch.randn(batch_size, 3, generator=generator),
        image=torch.randn(batch_size, 5, generator=generator),
        has_text=everywhere if has_text is None else torch.tensor(has_text),
        has_image=everywhere if has_image is None else torch.tensor(has_image),
    )


def set_answers(classifier, text, image):
    """Have each modality answer with these probabilities, whatever it sees."""
    for linear, probabilities in ((classifier.text, text), (classifier.image, image)):
        nn.init.zeros_(linear.weight)
        linear.bias.data = torch.tensor(probabilities).log()


def test_the_joined_answer_by_hand():
    classifier = make_classifier(num_classes=2)
    set_answers(classifier, [0.8, 0.2], [0.5, 0.5])
    with torch.no_grad():
        classifier.fusion_scale.copy_(torch.tensor([1.0, 3.0]))
        classifier.fusion_bias.copy_(torch.tensor([0.0, math.log(4.0)]))
    logits, loss = classifier(make_embeds(1))
    # .8 * .5^3 against .2 * .5^3 * 4: even.
    torch.testing.assert_close(logits.softmax(dim=-1), torch.tensor([[0.5, 0.5]]))
    assert loss is None


def test_a_side_alone_answers_as_if_there_were_no_other():
    classifier = make_classifier()
    embeds = make_embeds(3, [True, False, True], [True, True, False])
    embeds.text[1], embeds.image[2] = 0.0, 0.0  # new embeddings of what is missing
    logits = classifier(embeds)[0].softmax(dim=-1)
    torch.testing.assert_close(logits[1], classifier.image(embeds.image[1]).softmax(dim=-1))
    torch.testing.assert_close(logits[2], classifier.text(embeds.text[2]).softmax(dim=-1))


def test_a_stand_in_that_learnt_something_is_heard():
    classifier = make_classifier()
    silent, heard = make_embeds(1, [True], [False]), make_embeds(1, [True], [False])
    silent.image[0] = 0.0
    assert not torch.allclose(classifier(silent)[0], classifier(heard)[0])


@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_modality(modality):
    classifier = make_classifier({modality: WIDTHS[modality]})
    embeds = make_embeds(2)
    alone = ProductEmbeds(**{modality: embeds[modality], f"has_{modality}": embeds[f"has_{modality}"]})
    labels = torch.tensor([0, 3])
    logits, loss = classifier(alone, labels)
    expected = getattr(classifier, modality)(alone[modality])
    torch.testing.assert_close(logits.softmax(dim=-1), expected.softmax(dim=-1))
    torch.testing.assert_close(loss, F.cross_entropy(expected, labels))
    assert {name.split(".")[0] for name, _ in classifier.named_parameters()} == {modality}
    fit_fusion(classifier, alone, labels)


def test_the_loss_is_the_joined_one_and_the_mean_of_the_modalities():
    classifier = make_classifier()
    embeds = make_embeds(4, has_image=[True, True, True, False])
    labels = torch.tensor([2, 0, -100, 1])
    logits, loss = classifier(embeds, labels)
    kept = [0, 1, 3]
    text = F.cross_entropy(classifier.text(embeds.text[kept]), labels[kept])
    image = F.cross_entropy(classifier.image(embeds.image[:2]), labels[:2])  # the last has no image
    torch.testing.assert_close(loss, F.cross_entropy(logits[kept], labels[kept]) + (text + image) / 2)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 4.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(weights, smoothing):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, -100, 1, 3])
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(mean_cross_entropy(logits, labels, weights, smoothing), expected)


def test_without_labels_the_loss_is_zero_and_has_a_gradient():
    classifier = make_classifier()
    _, loss = classifier(make_embeds(2), torch.tensor([-100, -100]))
    assert loss.item() == 0
    loss.backward()
    assert classifier.text.weight.grad.abs().sum() == 0


def noisy_answers(num_rows, strengths, prior=(0.25, 0.25, 0.25, 0.25)):
    """Return rows and labels, and classifiers that know the label with these strengths of evidence."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.multinomial(torch.tensor(prior), num_rows, replacement=True, generator=generator)
    embeds = {}
    for modality, strength in strengths.items():
        # The log likelihood of a shifted normal variable is the variable times the shift.
        embeds[modality] = strength * F.one_hot(labels, 4) + torch.randn(num_rows, 4, generator=generator)
    everywhere = torch.ones(num_rows, dtype=torch.bool)
    classifier = make_classifier({"text": 4, "image": 4})
    for modality, strength in strengths.items():
        linear = getattr(classifier, modality)
        linear.weight.data = strength * torch.eye(4)
        linear.bias.data = torch.tensor(prior).log()
    return classifier, ProductEmbeds(**embeds, has_text=everywhere, has_image=everywhere), labels


def test_fitting_finds_what_independent_evidence_asks_for():
    prior = (0.7, 0.1, 0.1, 0.1)
    classifier, embeds, labels = noisy_answers(20000, {"text": 1.5, "image": 1.0}, prior)
    fit_fusion(classifier, embeds, labels, class_counts=torch.tensor(prior) * 1e6)
    # Bayes: p(class | both) goes with p(class | text) p(class | image) / p(class).
    torch.testing.assert_close(classifier.fusion_scale.data, torch.ones(2), rtol=0, atol=0.05)
    bias = classifier.fusion_bias.data
    torch.testing.assert_close(bias - bias[1], -(torch.tensor(prior) / 0.1).log(), rtol=0, atol=0.15)
    assert classifier.fusion_scale.requires_grad


def test_products_of_classes_without_training_rows_do_not_make_the_fusion_unsure():
    classifier, embeds, labels = noisy_answers(400, {"text": 1.5, "image": 1.0})
    counts = torch.tensor([50, 50, 50, 0])
    known = labels != 3
    fit_fusion(classifier, select_products(embeds, known), labels[known], counts)
    expected = {name: value.clone() for name, value in classifier.state_dict().items()}
    fit_fusion(classifier, embeds, labels, counts)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, expected[name]), name
    fit_fusion(classifier, embeds, torch.full_like(labels, 3), counts)  # nothing to fit by: all stays
    assert torch.equal(classifier.fusion_scale, expected["fusion_scale"])
    fit_fusion(classifier, embeds, labels, class_counts=torch.tensor([50, 50, 50, 50]))
    assert not torch.equal(classifier.fusion_scale, expected["fusion_scale"])


def test_fitting_turns_noise_off_and_joins_no_worse_than_the_better_modality():
    classifier, embeds, labels = noisy_answers(4000, {"text": 2.0, "image": 1.0})
    embeds.image = torch.randn(4000, 4, generator=torch.Generator().manual_seed(3))
    fit_fusion(classifier, embeds, labels)
    scale_text, scale_image = classifier.fusion_scale.tolist()
    assert scale_text == pytest.approx(1.0, abs=0.1)
    assert 0 <= scale_image < 0.1
    joined = F.cross_entropy(classifier(embeds)[0], labels)
    assert joined < F.cross_entropy(classifier.modality_logits(embeds)["text"], labels) + 1e-3


@pytest.mark.parametrize("seed", [12, 14, 16])
def test_scales_stay_small_where_a_few_products_are_told_apart_without_a_mistake(seed):
    classifier = LateFusionClassifier({"text": 2, "image": 2}, 2)
    for linear in (classifier.text, classifier.image):
        linear.weight.data = 0.1 * torch.eye(2)  # right and unsure: the larger the scale, the better
        linear.bias.data = torch.zeros(2)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4 + seed % 4) % 2
    modalities = {
        modality: F.one_hot(labels, 2) + 0.5 * torch.rand(len(labels), 2, generator=generator)
        for modality in ("text", "image")
    }
    everywhere = torch.ones(len(labels), dtype=torch.bool)
    embeds = ProductEmbeds(**modalities, has_text=everywhere, has_image=everywhere)
    fit_fusion(classifier, embeds, labels)
    assert 0.5 < classifier.fusion_scale.min() < classifier.fusion_scale.max() < 1
    assert (classifier(embeds)[0].argmax(dim=1) == labels).all()
    often = torch.arange(len(labels)).repeat(1000)  # so many products may say that the answers are too unsure
    fit_fusion(classifier, select_products(embeds, often), labels[often])
    assert 2 < classifier.fusion_scale.max() < 1000


def test_fitting_without_labelled_products_changes_nothing():
    classifier = make_classifier()
    fit_fusion(classifier, make_embeds(3), torch.tensor([-100, -100, -100]))
    fit_fusion(classifier, make_embeds(2, has_image=[False, False]), torch.tensor([0, 1]))
    assert classifier.fusion_scale.tolist() == [0.5, 0.5]


def test_a_classifier_relies_on_one_side_of_products_with_both():
    classifier, embeds = make_classifier(), make_embeds(3, has_text=[True, True, False])
    modalities = classifier.modality_logits(embeds)
    classifier.rely_on("text")
    logits, _ = classifier(embeds)
    torch.testing.assert_close(logits[:2], modalities["text"][:2])
    # The third has no title: its image answers, and what stands in for the title.
    torch.testing.assert_close(logits[2], modalities["image"][2] + modalities["text"][2])


@pytest.mark.parametrize(("score_of", "expected"), [(0, [1.0, 0.0]), (1, [0.0, 1.0]), (None, None)])
def test_joining_is_left_to_one_side_where_that_scores_higher(score_of, expected):
    classifier, embeds, labels = noisy_answers(400, {"text": 1.5, "image": 1.0})

    class Judged(ClassifierTask):
        scored_by = ("accuracy",)

        def metrics(self, head, rows):
            return {"accuracy": 0.5 if score_of is None else head.classifier.fusion_scale[score_of].item() / 10}

    head = SimpleNamespace(classifier=classifier, config=SimpleNamespace(modality="both"))
    rows = Represented(embeds, labels, [str(row) for row in range(400)], torch.arange(400).numpy(), [""] * 400)
    with torch.no_grad():
        classifier.text.weight.mul_(2)  # so sure of itself that the fitted scale is below 1
        classifier.image.weight.mul_(2)
    Judged(FinetuneArguments(task="category"), None).fit_fusion(head, labels.numpy(), rows)
    if expected is None:
        assert 0 < classifier.fusion_scale.min() < classifier.fusion_scale.max() < 1
    else:
        assert classifier.fusion_scale.tolist() == expected
        assert not classifier.fusion_bias.any()
