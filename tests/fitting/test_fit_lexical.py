"""Weights of n-grams beside vectors, and what weighs the evidence of pairs: fitted, and never the worse for it."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from modeling_eclip import ProductEmbeds
from modeling_eclip.fitting.evidence import fit_evidence, fit_idf, write_trees
from modeling_eclip.fitting.lexical import fit_lexical
from modeling_eclip.fitting.linear import fit_classifier
from modeling_eclip.fusion_eclip import EVIDENCE, BoostedTrees, LateFusionClassifier, PairEvidence, select_products
from modeling_eclip.processing_eclip import lexical_ids

KINDS = ["shoe", "mug", "lamp"]


def make_products(number, seed, named=0.9, vectors_know=0.0):
    """Return products whose titles mostly name the class, and whose vectors know so much of it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=number)
    words = [KINDS[label] if rng.random() < named else "thing" for label in labels]
    titles = [f"{rng.choice(['red', 'blue', 'new'])} {word} {rng.integers(100)}" for word in words]
    vectors = rng.normal(size=(number, 8)).astype(np.float32)
    vectors[np.arange(number), labels] += 3 * vectors_know
    everywhere = torch.ones(number, dtype=torch.bool)
    embeds = ProductEmbeds(text=torch.from_numpy(vectors), has_text=everywhere, lexical=lexical_ids(titles))
    return embeds, torch.from_numpy(labels)


def accuracy(classifier, embeds, labels):
    return (classifier(embeds)[0].argmax(dim=1) == labels).float().mean().item()


@pytest.mark.parametrize(
    ("named", "vectors_know", "least"), [(0.9, 0.0, 0.85), (0.0, 1.0, 0.85), (0.7, 0.6, 0.85)], ids=str
)
def test_titles_vectors_or_both_tell_the_class(named, vectors_know, least):
    splits = [make_products(number, seed, named, vectors_know) for seed, number in enumerate((400, 200, 400))]
    (train, labels), (held_out, held_out_labels), (test, test_labels) = splits
    classifier = LateFusionClassifier({"text": 8}, 3, lexical_rows=512)
    fit_classifier(classifier, train, labels, held_out, held_out_labels)
    vectors_alone = accuracy(classifier, test, test_labels)
    fit_lexical(classifier, train, labels, held_out, held_out_labels)
    joined = accuracy(classifier, test, test_labels)
    assert joined > least
    # Two standard errors of 400 rows.
    assert joined > vectors_alone - 2 * (vectors_alone * (1 - vectors_alone) / 400) ** 0.5


def test_a_class_or_a_title_that_is_missing_is_no_trouble():
    train, labels = make_products(60, 0)
    labels[labels == 2] = 1  # a class without rows
    train.has_text[0] = False
    held_out, held_out_labels = make_products(30, 1)
    classifier = LateFusionClassifier({"text": 8}, 3, lexical_rows=64)
    fit_classifier(classifier, train, labels, held_out, held_out_labels)
    fit_lexical(classifier, train, labels, held_out, held_out_labels)
    logits = classifier(held_out)[0]
    assert logits.isfinite().all() and (logits.argmax(dim=1) < 2).all()
    before = classifier.text.weight.clone()
    fit_lexical(classifier, train, torch.zeros_like(labels), held_out, held_out_labels)  # one class: nothing to learn
    assert torch.equal(classifier.text.weight, before)
    held_out_labels[:] = -100  # nothing to choose by: the vectors alone answer
    fit_classifier(classifier, train, labels, held_out, held_out_labels)
    before = classifier.text.weight.clone()
    fit_lexical(classifier, train, labels, held_out, held_out_labels)
    assert torch.equal(classifier.text.weight, before) and not classifier.lexical.weight.any()


def test_products_of_classes_without_training_rows_do_not_make_answers_unsure():
    train, labels = make_products(60, 0)
    labels[labels == 2] = -100
    held_out, held_out_labels = make_products(200, 1)
    known = held_out_labels < 2
    fitted = []
    for rows in (known, torch.ones_like(known)):
        classifier = LateFusionClassifier({"text": 8}, 3, lexical_rows=512)
        products = select_products(held_out, rows), held_out_labels[rows]
        fit_classifier(classifier, train, labels, *products)
        fit_lexical(classifier, train, labels, *products)
        fitted.append(classifier)
    for name, value in fitted[0].state_dict().items():
        torch.testing.assert_close(fitted[1].state_dict()[name], value)
    # Nine titles in ten name their class.
    assert fitted[1](select_products(held_out, known))[0].softmax(dim=1).amax(dim=1).median() > 0.8
    held_out_labels[:] = 2  # nothing to choose by: the vectors alone answer
    fit_lexical(classifier, train, labels, held_out, held_out_labels)
    assert not classifier.lexical.weight.any()


def test_trees_answer_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, len(EVIDENCE))).astype(np.float32).astype(np.float64)
    x[rng.random(x.shape) < 0.2] = np.nan
    y = (np.nan_to_num(x[:, 3]) * np.nan_to_num(x[:, 7]) + 0.3 * np.nan_to_num(x[:, 9]) > 0).astype(int)
    boosting = HistGradientBoostingClassifier(max_iter=300, max_leaf_nodes=15, max_depth=6, early_stopping=False)
    boosting.fit(x, y)
    trees = BoostedTrees()
    write_trees(trees, boosting)
    other = rng.normal(size=(300, len(EVIDENCE))).astype(np.float32).astype(np.float64)
    other[:100] = x[:100]
    other[rng.random(other.shape) < 0.3] = np.nan
    expected = boosting.decision_function(other) - np.ravel(boosting._baseline_prediction)[0]
    # Sums of 300 numbers in float32 against float64.
    np.testing.assert_allclose(trees(torch.from_numpy(other)).numpy(), expected, rtol=1e-4, atol=1e-4)


def make_evidence(number, seed, vectors_lie=False):
    """Return features of pairs: a literal one far from zero tells all, the vectors a little; and the labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, len(EVIDENCE))).astype(np.float32)
    labels = (np.abs(x[:, 10]) > 1).astype(np.int64)
    x[:, :3] = np.nan
    x[:, 3] = labels * 4 if vectors_lie else 0.2 * labels + rng.normal(size=number)
    return torch.from_numpy(x), torch.from_numpy(labels)


@pytest.mark.parametrize("vectors_lie", [False, True])
def test_the_best_on_validation_stays(vectors_lie):
    train, labels = make_evidence(1000, 0, vectors_lie)  # as of vectors that were trained on these very pairs
    held_out, held_out_labels = make_evidence(500, 1)
    test, test_labels = make_evidence(500, 2)
    evidence = PairEvidence()
    found = fit_evidence(evidence, train, labels, held_out, held_out_labels)
    assert evidence.is_fitted.item()
    precision = average_precision_score(test_labels, evidence(test))
    assert precision > 0.9 > 0.7 > found["vectors"]
    kept = average_precision_score(held_out_labels, evidence(held_out))
    assert kept == max(found.values())


def test_vectors_stay_where_nothing_is_better():
    train, labels = make_evidence(200, 0)
    held_out, held_out_labels = make_evidence(200, 1)
    held_out[:, 3] = held_out_labels.float()
    evidence = PairEvidence()
    fit_evidence(evidence, train, labels, held_out, held_out_labels)
    assert not evidence.is_fitted.item()
    assert fit_evidence(evidence, train, torch.ones_like(labels), held_out, held_out_labels) == {}


def test_few_pairs_are_not_learned_by_heart():
    train, labels = make_evidence(30, 0)
    held_out, held_out_labels = make_evidence(100, 1)
    found = fit_evidence(PairEvidence(), train, labels, held_out, held_out_labels, itself=train[:20])
    assert not any("trees" in name for name in found)


@pytest.mark.parametrize("part", ["linear", "trees"])
def test_products_with_themselves_are_learned(part):
    train, labels = make_evidence(30 if part == "linear" else 1000, 0)
    held_out, held_out_labels = make_evidence(500, 1)
    if part == "linear":
        for features, answers in ((train, labels), (held_out, held_out_labels)):
            features[:, 11] = answers + 0.1 * features[:, 11]
    alike = train[: len(train) // 5].clone()
    alike[:, 11], alike[:, 20] = 0, 50  # more alike than any labelled pair
    scores = {}
    for name, itself in (("without", None), ("with", alike)):
        evidence = PairEvidence()
        fit_evidence(evidence, train, labels, held_out, held_out_labels, itself=itself)
        scores[name] = evidence(alike).mean().item()
    assert scores["with"] > scores["without"] + 1


def test_rare_ngrams_weigh_more():
    evidence = PairEvidence()
    fit_idf(evidence, ["red shoe", "red mug", None, "red mug", "", "red lamp x9"])
    red, shoe = (lexical_ids([word])[0, 0].item() for word in ("red", "shoe"))
    assert evidence.idf[red].item() == pytest.approx(np.log(4 / 4) + 1)
    assert evidence.idf[shoe].item() == pytest.approx(np.log(4 / 2) + 1)
