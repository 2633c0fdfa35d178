"""Product matching: rows are pairs of offers, labelled or drawn from catalogs; whether both are one product."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from modeling_eclip import EClipForProductMatching
from modeling_eclip.fitting.evidence import fit_evidence
from modeling_eclip.fitting.linear import fit_classifier
from modeling_eclip.fusion_eclip import ProductEmbeds, select_products
from modeling_eclip.processing_eclip import lexical_ids
from training.arguments.data import DataArguments
from training.data.pairs import ProductPairs, load_pairs, load_title_pairs, pairs_of_catalogs
from training.engine.build import load_split
from training.metrics.product_matching.product_matching import ProductMatching
from training.tasks.answers import AnsweredSplit, TaskAnswers
from training.tasks.baseline import JUDGED, BaselineData, calibrated
from training.tasks.features import Represented, answer, on_device
from training.tasks.lexical_baseline import LexicalBaseline
from training.tasks.task import register_task
from training.tasks.yes_or_no_task import YesOrNoTask

__all__ = ["MatchingTask", "pair_evidence"]

_NUM_FOLDS = 3
_PAIRS_AT_ONCE = 2048


@register_task
class MatchingTask(YesOrNoTask):
    """Product matching."""

    name = "matching"
    head_class = EClipForProductMatching
    metric = "product_matching"
    metric_class = ProductMatching
    words = ("two products", "one product")
    reported = ("average_precision", "best_f1")
    rows_are_pairs = True
    works_untrained = True
    baseline_compares_pairs = True

    @classmethod
    def load_split(cls, data: DataArguments, split: str, seed: int) -> ProductPairs:
        """Load labelled pairs; where none are named, pairs are drawn from catalog ids.

        Raises:
            ValueError: pairs of a stream are asked for.
        """
        path = getattr(data, f"{split}_pairs")
        if path and data.pair_id_column == data.title_column:
            return load_title_pairs(path, encoding=data.encoding)
        products = load_split(data, split)
        if not hasattr(products, "select"):
            raise ValueError(
                "`streaming` is true, but the products of pairs must be found by their ids; leave it out."
            )
        if path:
            return load_pairs(path, products, encoding=data.encoding)
        return pairs_of_catalogs(products, seed=seed, group_column=data.category_column)

    @classmethod
    def evaluated_data(cls, data: DataArguments, split: str) -> DataArguments:
        """Find the products of `test_pairs` in `pairs_data`, or in `test_data` where that is empty."""
        if split != "test" or not data.test_pairs or not data.pairs_data:
            return data
        # The training offers' columns of catalogs need not be there, and the pairs say which offers are one product.
        return replace(data, test_data=data.pairs_data, pairs_data=[], catalog_id_column=[])

    @classmethod
    def draws_rows(cls, data: DataArguments) -> bool:
        """Pairs of catalogs are drawn."""
        return not data.train_pairs

    @classmethod
    def reads_catalogs(cls, data: DataArguments) -> bool:
        """Pairs are drawn from catalogs where none are named."""
        return not data.train_pairs

    def seen(self, head: Any, rows: Represented) -> ProductEmbeds:
        """Return what pairs have in common."""
        return head.pair_features(rows.embeds, rows.right)

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit a regression per modality, unless the cosine that the head starts with is better; then the evidence."""
        if head.evidence is not None:
            head.evidence.is_fitted.fill_(False)
        start = {name: value.clone() for name, value in head.classifier.state_dict().items()}
        before = self.score(self.metrics(head, validation))
        seen, held_out_seen = self.seen(head, train), self.seen(head, validation)
        chosen = fit_classifier(head.classifier, seen, train.labels, held_out_seen, validation.labels)
        self.fit_fusion(head, train.labels.numpy(), validation)
        vectors_learned = self.score(self.metrics(head, validation)) >= before
        if not vectors_learned:
            head.classifier.load_state_dict(start)
        if head.evidence is not None:
            evidence = pair_evidence(head, train)
            if vectors_learned:
                evidence[:, 3] = self._held_out_logits(head, train, chosen)
            self._fit_evidence(head, evidence, train, validation)

    def fit_lexical(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit what weighs the evidence, beside vectors that were trained."""
        head.evidence.is_fitted.fill_(False)
        self._fit_evidence(head, pair_evidence(head, train), train, validation)

    def _fit_evidence(self, head: Any, evidence: torch.Tensor, train: Represented, validation: Represented) -> None:
        held_out = pair_evidence(head, validation)
        seed = self.arguments.seed
        positives = int((train.labels == 1).sum())
        rows = np.random.default_rng(seed).permutation(len(train.labels))[:positives]
        itself = pair_evidence(head, replace(train, right=train.embeds), rows)
        fit_evidence(head.evidence, evidence, train.labels, held_out, validation.labels, itself=itself, seed=seed)

    def _held_out_logits(self, head: Any, train: Represented, strengths: Mapping[str, float]) -> torch.Tensor:
        """Let the vectors answer about each third of the pairs by classifiers that were fitted to the other two."""
        logits = torch.zeros(len(train.labels))
        if min(int((train.labels == label).sum()) for label in (0, 1)) < _NUM_FOLDS:
            return pair_evidence(head, train)[:, 3]
        fitted = {name: value.clone() for name, value in head.classifier.state_dict().items()}
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=self.arguments.seed)
        of_modality = {modality: (strength,) for modality, strength in strengths.items()}
        seen = self.seen(head, train)
        for others, own in folds.split(np.zeros(len(logits)), train.labels.numpy()):
            of_others, of_own = (select_products(seen, rows) for rows in (others, own))
            fit_classifier(
                head.classifier, of_others, train.labels[others], of_own, train.labels[own], strengths=of_modality
            )
            logits[own] = pair_evidence(head, train, own)[:, 3]
        head.classifier.load_state_dict(fitted)
        return logits

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Answer about pairs."""
        probabilities = split.head.probabilities(answer(split.head, split.represented).logits).double().numpy()
        labels = split.represented.labels.numpy().astype(np.int64)
        threshold = split.head.decision_threshold
        rows = np.stack([split.products.left[split.rows], split.products.right[split.rows]], axis=1)
        return TaskAnswers(
            cls.metric,
            probabilities,
            labels,
            _products_of_pairs(split.products)[rows[:, 0]],
            metric_settings={"threshold": threshold},
            mistakes=cls.wrong_decisions(rows, probabilities, labels, threshold),
        )

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Compare the views of two products by their cosines: by one, by their mean, or by a regression on all."""
        cosines = {split: _cosines(given.views[split], given.splits[split]) for split in given.splits}
        train, held_out = cosines["train"][given.rows], torch.from_numpy(given.splits["validation"].labels)
        trained = LogisticRegression(class_weight="balanced").fit(train, given.train_labels).decision_function
        ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"trained": trained, "mean": lambda of: of.mean(axis=1)}
        ways |= {view: partial(_column, place) for place, view in enumerate(given.views["test"])}
        scores = {
            name: {split: torch.from_numpy(way(cosines[split])) for split in JUDGED} for name, way in ways.items()
        }
        if given.reads_lexical:
            scores["literal"] = _score_literally(given, cosines)
        precision = {name: average_precision_score(held_out, of["validation"]) for name, of in scores.items()}
        chosen = max(precision, key=lambda name: precision[name])
        probabilities = calibrated(scores[chosen], held_out)
        pairs = given.splits["test"]
        answers = TaskAnswers(
            self.metric,
            probabilities["test"].numpy(),
            pairs.labels,
            _products_of_pairs(pairs)[pairs.left],
            metric_settings={"threshold": self.choose_threshold(probabilities["validation"], held_out)},
        )
        return answers, float(precision[chosen])


@torch.no_grad()
def pair_evidence(head: EClipForProductMatching, pairs: Represented, rows: np.ndarray | None = None) -> torch.Tensor:
    """Return what a head weighs of pairs, or of some of them, shape `(N, F)`; on the CPU."""
    assert pairs.right is not None
    places = torch.arange(len(pairs.labels)) if rows is None else torch.from_numpy(rows)
    return torch.cat(
        [
            head.pair_evidence(
                on_device(head.device, select_products(pairs.embeds, block)),
                on_device(head.device, select_products(pairs.right, block)),
            ).cpu()
            for block in places.split(_PAIRS_AT_ONCE)
        ]
    )


def _score_literally(given: BaselineData, cosines: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Score the judged pairs by the literal evidence of their titles, beside the mean of the views' cosines."""
    pairs = dict(given.splits) | {"train": given.splits["train"].select(given.rows)}
    titles = {split: list(of.products["title"]) for split, of in pairs.items()}
    means = {split: of.mean(axis=1) for split, of in cosines.items()}
    means["train"] = means["train"][given.rows]
    baseline = LexicalBaseline(titles["train"])
    features = {
        split: baseline.features(lexical_ids(titles[split]), of.left, of.right, means[split])
        for split, of in pairs.items()
    }
    baseline.fit(features, {split: of.labels for split, of in pairs.items()}, seed=given.seed)
    return {split: baseline.score(features[split]) for split in JUDGED}


def _products_of_pairs(pairs: ProductPairs) -> np.ndarray:
    """Return the product of each row of the table, as far as the pairs themselves tell which rows are of one."""
    number, same = len(pairs.products), pairs.labels == 1
    links = coo_array((np.ones(same.sum()), (pairs.left[same], pairs.right[same])), shape=(number, number))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _cosines(views: dict[str, Any], pairs: ProductPairs) -> np.ndarray:
    """Return the cosine of every pair, a column per view."""
    columns = []
    for part in views.values():
        left, right = part[pairs.left], part[pairs.right]
        product = left.multiply(right) if hasattr(left, "multiply") else left * right
        columns.append(np.asarray(product.sum(axis=1)).ravel())
    return np.stack(columns, axis=1)


def _column(place: int, cosines: np.ndarray) -> np.ndarray:
    return cosines[:, place]
