"""Metric modules: loaded by path, against answers worked out by hand, naive counting and scikit-learn."""

import json
import math
from itertools import combinations

import evaluate
import numpy as np
import pytest
from conftest import ROOT
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

METRICS = ROOT / "training" / "metrics"
# Leaves at two depths.
PATHS = [["Shoes", "Boots"], ["Shoes", "Sandals"], ["Bags"]]


@pytest.fixture(scope="module")
def load():
    return lambda name: evaluate.load(str(METRICS / name), keep_in_memory=True)


@pytest.mark.parametrize("folder", sorted(METRICS.iterdir()), ids=lambda folder: folder.name)
def test_card_names_every_metric_of_its_example(folder):
    card = (folder / "README.md").read_text()
    example = card.split("```python\n")[1].split("```")[0].replace("training/metrics", str(METRICS))
    *lines, call = example.split("metric.compute")
    names = {}
    exec("metric.compute".join(lines), names)
    metrics = eval("metric.compute" + call, names)
    json.dumps(metrics)  # plain numbers
    for name in metrics:
        for shown, general in {"level_1": "level_<n>", "level_2": "level_<n>", "top_5": "top_<k>"}.items():
            name = name.replace(shown, general)
        for attribute in ("colour", "season"):
            name = name.replace(attribute, "<attribute>")
        assert f"`{name}`" in card, name


def test_category_by_hand(load):
    # The first product's likeliest leaf is Bags, but Shoes have more together; the third's kind is not in the tree.
    metrics = load("product_category").compute(
        predictions=[[0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]],
        references=[["Shoes", "Boots"], ["Bags"], ["Shoes", "Clogs"]],
        category_paths=PATHS,
        top_k=2,
    )
    assert metrics == pytest.approx(
        {
            "level_1_accuracy": 1.0,
            "level_1_macro_f1": 1.0,
            "level_2_accuracy": 1 / 3,
            # Bags: one of two answers right; Boots and Clogs: none.
            "level_2_macro_f1": (2 / 3 + 0 + 0) / 3,
            "accuracy": 1 / 3,
            "macro_f1": 2 / 9,
            # 5 nodes on the right paths, 4 on the answered ones, Bags and the third's Shoes on both.
            "hierarchical_f1": 4 / 9,
            "top_2_accuracy": 2 / 3,
        }
    )


def test_category_equals_scikit_learn_and_naive_sums(load):
    rng = np.random.default_rng(0)
    paths = [(f"r{i % 3}", f"r{i % 3}k{i % 7}", f"leaf{i}")[: 1 + (i % 5 > 0) + (i % 5 > 1)] for i in range(20)]
    paths = list(dict.fromkeys(paths))
    scores = rng.dirichlet(np.full(len(paths), 0.1), size=300)
    right = [
        paths[rng.choice(len(paths), p=row)] if rng.random() < 0.9 else ("r0", "new", f"{rng.integers(3)}")
        for row in scores
    ]
    metrics = load("product_category").compute(predictions=scores, references=right, category_paths=paths)
    for level in (1, 2, 3):
        answers = []
        for row in scores:
            totals: dict[tuple[str, ...], float] = {}
            for path, score in zip(paths, row, strict=True):
                totals[path[:level]] = totals.get(path[:level], 0.0) + score
            answers.append(" > ".join(max(totals, key=totals.get)))
        expected = [" > ".join(path[:level]) for path in right]
        assert metrics[f"level_{level}_macro_f1"] == pytest.approx(f1_score(expected, answers, average="macro"))
        assert metrics[f"level_{level}_accuracy"] == pytest.approx(np.mean(np.equal(expected, answers)))
    answers = [" > ".join(paths[leaf]) for leaf in scores.argmax(axis=1)]
    assert metrics["macro_f1"] == pytest.approx(
        f1_score([" > ".join(path) for path in right], answers, average="macro")
    )


def test_category_refuses(load):
    metric = load("product_category")
    for error, predictions, references in (
        (r"shape \(1, 2\); give a score of each of the 3", [[0.5, 0.5]], [["Bags"]]),
        ("negative", [[0.5, -0.5, 1.0]], [["Bags"]]),
        (r"references\[0\] is empty", [[0.0, 0.0, 1.0]], [[]]),
    ):
        with pytest.raises(ValueError, match=error):
            metric.outcomes(predictions, references, PATHS)
    with pytest.raises(ValueError, match="at least one product"):
        metric.outcomes(np.zeros((0, 3)), [], PATHS)
    with pytest.raises(ValueError, match="twice"):
        metric.outcomes([[0.5, 0.5]], [["Bags"]], [["Bags"], ["Bags"]])


def test_one_category_is_a_metric(load):
    metrics = load("product_category").compute(
        predictions=[[1.0], [1.0]], references=[["A"]] * 2, category_paths=[["A"]]
    )
    assert set(metrics.values()) == {1.0}


def test_attributes_by_hand(load):
    # colour: red right, blue not stated, green for red. season: one known, right. size: none known.
    metrics = load("product_attributes").compute(
        predictions=[["red", "summer", "S"], ["not stated", "winter", "S"], ["green", "winter", "S"]],
        references=[["red", None, None], ["blue", "winter", None], ["red", None, None]],
        attributes=["colour", "season", "size"],
    )
    nan = float("nan")
    assert metrics == pytest.approx(
        {
            "colour_accuracy": 1 / 3,
            # One right of two stated, of three to find.
            "colour_micro_f1": 2 / 5,
            # red: one right of one answer and two references; blue and green: none.
            "colour_macro_f1": (2 / 3 + 0 + 0) / 3,
            "season_accuracy": 1.0,
            "season_micro_f1": 1.0,
            "season_macro_f1": 1.0,
            "size_accuracy": nan,
            "size_micro_f1": nan,
            "size_macro_f1": nan,
            "accuracy": 2 / 4,
            "micro_f1": 4 / 7,
            "macro_f1": (2 / 9 + 1) / 2,
        },
        nan_ok=True,
    )


def test_not_stated_is_a_value_where_references_say_so(load):
    metrics = load("product_attributes").compute(
        predictions=[["not stated"], ["not stated"]], references=[["not stated"], ["red"]], attributes=["colour"]
    )
    assert (metrics["accuracy"], metrics["micro_f1"]) == (0.5, 0.5)
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_attributes_equal_scikit_learn(load):
    rng = np.random.default_rng(0)
    values = np.array(["a", "b", "c", "d", "e"])
    right = values[rng.integers(0, 4, (200, 1))]
    answered = np.where(rng.random((200, 1)) < 0.6, right, values[rng.integers(1, 5, (200, 1))])
    answered[rng.random((200, 1)) < 0.2] = "?"
    metrics = load("product_attributes").compute(
        predictions=answered.tolist(), references=right.tolist(), attributes=["x"], not_stated="?"
    )
    for average in ("micro", "macro"):
        expected = f1_score(right.ravel(), answered.ravel(), labels=list(values), average=average)
        assert metrics[f"x_{average}_f1"] == pytest.approx(expected)


def test_attributes_refuse(load):
    metric = load("product_attributes")
    with pytest.raises(ValueError, match=r"references\[1\] has 1 values"):
        metric.outcomes([["a", "b"]] * 2, [["a", "b"], ["a"]], ["x", "y"])
    with pytest.raises(ValueError, match="at least one product"):
        metric.outcomes([], [], ["x"])


def test_matching_and_adult_by_hand(load):
    scored = {"predictions": [0.9, 0.8, 0.7, 0.1], "references": [1, 0, 1, 0]}
    metrics = load("product_matching").compute(**scored, threshold=0.85)
    assert metrics == pytest.approx(
        {
            "average_precision": (1 + 2 / 3) / 2,
            "best_f1": 0.8,  # from 0.7 on: two of three right, all found
            "f1": 2 / 3,
            "precision": 1.0,
            "recall": 0.5,
            "precision_at_recall_95": 2 / 3,
        }
    )
    metrics = load("adult_recognition").compute(**scored, threshold=0.95)
    assert metrics == pytest.approx(
        {
            "average_precision": 5 / 6,
            "precision_at_recall_95": 2 / 3,
            "recall_at_precision_95": 0.5,
            "precision": 0.0,
            "recall": 0.0,
            "f1": 0.0,
        }
    )


def test_curves_equal_scikit_learn(load):
    rng = np.random.default_rng(0)
    label = rng.random(500) < 0.2
    score = np.round(label * 0.3 + rng.random(500), 2)  # with equal ones
    metrics = load("product_matching").compute(predictions=score, references=label, threshold=0.9)
    adult = load("adult_recognition").compute(predictions=score, references=label, threshold=0.9)
    precision, recall, _ = precision_recall_curve(label, score)
    assert metrics["average_precision"] == pytest.approx(average_precision_score(label, score))
    assert metrics["best_f1"] == pytest.approx(
        max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r)
    )
    assert metrics["precision_at_recall_95"] == pytest.approx(precision[recall >= 0.95].max())
    assert metrics["f1"] == adult["f1"] == pytest.approx(f1_score(label, score >= 0.9))
    assert adult["recall_at_precision_95"] == pytest.approx(recall[precision >= 0.95].max())
    for name in ("average_precision", "precision", "recall", "precision_at_recall_95"):
        assert metrics[name] == adult[name]


def test_equal_scores_are_one_threshold(load):
    # No order among equal scores may be made use of: half of what is found is right.
    scored = {"predictions": [0.5] * 4, "references": [1, 1, 0, 0]}
    assert load("product_matching").compute(**scored)["average_precision"] == 0.5
    assert load("adult_recognition").compute(**scored)["recall_at_precision_95"] == 0.0


@pytest.mark.parametrize("name", ["product_matching", "adult_recognition"])
def test_one_class_alone(load, name, recwarn):
    metric = load(name)
    assert all(map(math.isnan, metric.compute(predictions=[0.2, 0.9], references=[0, 0]).values()))
    metrics = metric.compute(predictions=[0.2, 0.9], references=[1, 1])
    assert metrics["average_precision"] == metrics["precision_at_recall_95"] == metrics["precision"] == 1.0
    assert metrics["recall"] == 0.5
    assert not recwarn.list


@pytest.mark.parametrize("name", ["product_matching", "adult_recognition"])
def test_scores_that_are_refused(load, name):
    metric = load(name)
    for error, predictions, references in (
        ("at least one", [], []),
        (r"predictions\[1\] is nan", [0.1, float("nan")], [0, 1]),
        (r"references\[0\] is 2", [0.1, 0.2], [2, 1]),
        (r"shape \(2,\), references \(1,\)", [0.1, 0.2], [1]),
    ):
        with pytest.raises(ValueError, match=error):
            metric.outcomes(predictions, references)


def test_clustering_by_hand(load):
    # Of three offers of product 7 two were joined; the fourth offer is alone.
    metrics = load("product_clustering").compute(predictions=[5, 5, 1, 2], references=[7, 7, 7, -1])
    assert metrics == pytest.approx(
        {
            "adjusted_rand_index": (1 - 0.5) / (2 - 0.5),  # 1 joined pair, 3 true ones, of 6
            "v_measure": 2 / (1 + 1 / (1 - 0.75 * (math.log(3) - 2 / 3 * math.log(2)) / (1.5 * math.log(2)))),
            "homogeneity": 1.0,
            "completeness": 1 - 0.75 * (math.log(3) - 2 / 3 * math.log(2)) / (1.5 * math.log(2)),
            "pairwise_f1": 0.5,
            "pairwise_precision": 1.0,
            "pairwise_recall": 1 / 3,
            "b_cubed_f1": 0.8,
            "b_cubed_precision": 1.0,
            "b_cubed_recall": (2 / 3 + 2 / 3 + 1 / 3 + 1) / 4,
        }
    )


def test_clustering_equals_naive_counting(load):
    rng = np.random.default_rng(0)
    product = rng.integers(-3, 12, 80)
    group = np.where(rng.random(80) < 0.7, np.abs(product), rng.integers(0, 20, 80))
    metrics = load("product_clustering").compute(predictions=group, references=product)
    is_one = (product[:, None] == product[None, :]) & (product >= 0)[:, None] | np.eye(80, dtype=bool)
    is_joined = group[:, None] == group[None, :]
    pairs = list(combinations(range(80), 2))
    right = sum(is_one[pair] and is_joined[pair] for pair in pairs)
    assert metrics["pairwise_precision"] == pytest.approx(right / sum(is_joined[pair] for pair in pairs))
    assert metrics["pairwise_recall"] == pytest.approx(right / sum(is_one[pair] for pair in pairs))
    assert metrics["b_cubed_precision"] == pytest.approx(((is_one & is_joined).sum(1) / is_joined.sum(1)).mean())
    assert metrics["b_cubed_recall"] == pytest.approx(((is_one & is_joined).sum(1) / is_one.sum(1)).mean())


def test_clusterings_of_one_kind(load, recwarn):
    metric = load("product_clustering")
    for group, product in (([0, 0, 0], [4, 4, 4]), ([0, 1, 2], [-1, -1, -1]), ([3], [-1])):
        metrics = metric.compute(predictions=group, references=product)
        assert set(metrics.values()) == {1.0}
    # All in one group, though no two are one product.
    metrics = metric.compute(predictions=[0, 0, 0], references=[-1, -1, -1])
    assert (metrics["adjusted_rand_index"], metrics["pairwise_f1"], metrics["pairwise_recall"]) == (0.0, 0.0, 1.0)
    assert metrics["b_cubed_precision"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="at least one offer"):
        metric.outcomes([], [])
    assert not recwarn.list


def test_selective_prediction_by_hand(load):
    metric = load("selective_prediction")
    # The surest first: right, right, wrong, right. Of the first two all are right; nowhere else 95 % are.
    found = metric.compute(predictions=[[0.9], [0.8], [0.5], [0.3]], references=[[1], [1], [0], [1]])
    assert found == pytest.approx(
        {
            "coverage_at_precision_95": 0.5,
            "coverage_at_precision_99": 0.5,
            # Each alone in its bin.
            "expected_calibration_error": (0.1 + 0.2 + 0.5 + 0.7) / 4,
        }
    )
    # Of 40 answers two are wrong: the least sure one of the first 21, and the last.
    confidence, right = np.linspace(0.99, 0.5, 40), np.ones(40, dtype=int)
    right[[20, 39]] = 0
    found = metric.compute(predictions=confidence[:, None], references=right[:, None])
    assert (found["coverage_at_precision_95"], found["coverage_at_precision_99"]) == (1.0, 0.5)
    # Two kinds, each with a threshold, one without answers in a row.
    found = metric.compute(
        predictions=[[0.9, None], [0.6, 0.8], [0.7, 0.5]],
        references=[[1, 0], [0, 1], [1, 0]],
        kinds=["a", "b"],
        thresholds=[0.65, None],
    )
    assert (found["a_coverage"], found["b_coverage"], found["coverage"]) == (pytest.approx(2 / 3), 0.0, 0.4)
    assert found["selective_precision"] == 1.0 and math.isnan(found["b_selective_precision"])
    # In each kind the precision is held: two of a's three, one of b's two.
    assert found["coverage_at_precision_95"] == pytest.approx(3 / 5)
    assert found["b_expected_calibration_error"] == pytest.approx((0.2 + 0.5) / 2)


def test_selective_prediction_of_answers_with_equal_confidence_and_of_none(load):
    metric = load("selective_prediction")
    # A threshold cannot tell them apart.
    found = metric.compute(predictions=[[0.9], [0.9]], references=[[1], [0]])
    assert found["coverage_at_precision_95"] == 0.0 and found["expected_calibration_error"] == pytest.approx(0.4)
    outcomes = metric.outcomes([[0.9, np.nan]], [[1, 0]])
    assert math.isnan(metric.metrics(outcomes, ["a", "b"])["b_coverage_at_precision_95"])
    for given, message in (([[1.5]], "hold 1.5"), ([[0.5, 0.5]], r"shape \(1, 2\)"), ([], "at least one row")):
        with pytest.raises(ValueError, match=message):
            metric.outcomes(given, [[1]])


def test_selective_prediction_keeps_its_ranks_in_a_resample(load):
    metric, rng = load("selective_prediction"), np.random.default_rng(0)
    confidence = rng.integers(0, 20, (200, 2)) / 20
    right = rng.random((200, 2)) < confidence
    rows = rng.integers(200, size=200)
    outcomes = {name: values[rows] for name, values in metric.outcomes(confidence, right).items()}
    assert metric.metrics(outcomes, ["a", "b"]) == metric.metrics(
        metric.outcomes(confidence[rows], right[rows]), ["a", "b"]
    )


def test_retrieval_by_hand(load):
    metric = load("product_retrieval")
    there, back = (
        [[1, 1.0, 1.0], [2, 0.5, 0.8], [6, 0.25, 0.3], [20, 0.05, 0.0]],
        [[1, 1.0, 1.0]] * 3 + [[4, 0.2, 0.4]],
    )
    found = metric.compute(predictions=[*zip(there, back, strict=True)], directions=["there", "back"])
    assert {name: found[f"there_{name}"] for name in ("recall@1", "recall@5", "recall@10")} == {
        "recall@1": 0.25, "recall@5": 0.5, "recall@10": 0.75,
    }  # fmt: skip
    assert found["there_mean_reciprocal_rank"] == pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 20) / 4)
    assert found["there_mean_average_precision"] == pytest.approx(1.8 / 4)
    assert found["there_ndcg@10"] == pytest.approx(2.1 / 4) and found["back_ndcg@10"] == pytest.approx(3.4 / 4)
    assert found["back_recall@1"] == 0.75
    for given, message in (
        ([], "at least one query"),
        ([[1]], "at least one query"),
        ([[[0, 1.0, 1.0]]], "the rank 0.0; give ranks from 1 on"),
        ([[[1, 1.5, 1.0]]], "average precision of 1.5"),
        ([[[1, 1.0, float("nan")]]], "nDCG of nan"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.outcomes(given)
