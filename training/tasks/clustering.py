"""Product clustering: offers of one product into one group, by linear maps that are trained on catalogs."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from sklearn.neighbors import NearestNeighbors

from modeling_eclip import EClipConfig, EClipForProductClustering, ProductEmbeds
from modeling_eclip.fitting.evidence import fit_evidence, weigh_evidence
from modeling_eclip.fitting.thresholds import calibrate
from modeling_eclip.fusion_eclip import select_products
from modeling_eclip.processing_eclip import lexical_ids
from modeling_eclip.retrieval.linkage import average_linkage
from modeling_eclip.retrieval.neighbors import unique_pairs
from modeling_eclip.retrieval.pair_linkage import pair_linkage
from modeling_eclip.retrieval.product_linkage import score_linked_pairs
from modeling_eclip.retrieval.product_pairs import product_pairs
from modeling_eclip.retrieval.shared_ngrams import shared_ngram_pairs
from training.arguments.data import DataArguments
from training.data.read_tables import Products
from training.data.sampler import RowOrder, batch_spans
from training.metrics.product_clustering.product_clustering import ProductClustering
from training.plots.tasks import draw_bars, draw_group_sizes
from training.tasks.answers import AnsweredSplit, Mistake, TaskAnswers
from training.tasks.baseline import JUDGED, TEXT_SHARES, BaselineData
from training.tasks.best_weights import BestWeights
from training.tasks.features import Represented, answer, on_device
from training.tasks.label_share import choose_labelled
from training.tasks.labels import TaskLabels
from training.tasks.lexical_baseline import LexicalBaseline
from training.tasks.task import Intervals, PlotFile, Task, register_task

__all__ = ["CatalogLabels", "ClusteringTask"]

logger = logging.getLogger("training")

_NUM_SHOWN = 6  # offers of a wrong group
_MAX_PAIRS = 50_000  # that scores of pairs are learned from


@dataclass
class CatalogLabels(TaskLabels):
    """Which product an offer is of; one that is alone is a group of its own and has no label."""

    @classmethod
    def find(cls, products: Products, column: list[str]) -> "CatalogLabels":
        """Check that some products have several offers."""
        counts = Counter(row["catalog_id"] for row in products.select_columns("catalog_id") if row["catalog_id"] >= 0)
        if not any(count > 1 for count in counts.values()):
            raise ValueError(
                f"`catalog_id_column` is {list(column)}, by which no two offers are of one product; clustering needs "
                "such offers to learn from. Name another column."
            )
        return cls(["catalog_id"])

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return the catalog id, -1 for an offer that is alone."""
        return row["catalog_id"]

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the catalog id."""
        return {"catalog_id": str(row["catalog_id"]) if row["catalog_id"] >= 0 else None}


@register_task
class ClusteringTask(Task):
    """Product clustering."""

    name = "clustering"
    head_class = EClipForProductClustering
    metric = "product_clustering"
    scored_by = ("adjusted_rand_index",)
    reported = ("adjusted_rand_index", "v_measure")
    works_untrained = True
    reads_lexical = True
    contrasts_mates = True
    linear_depends_on_seed = True
    baseline_uses_training = False
    baseline_compares_pairs = True

    @classmethod
    def choose_rows(cls, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Choose whole catalogs, and keep the offers that are alone."""
        catalogs = np.unique(labels[labels >= 0])
        chosen = catalogs[choose_labelled(catalogs, share, seed)]
        return np.flatnonzero(np.isin(labels, chosen) | (labels < 0))

    @classmethod
    def find_classes(cls, products: Products, data: DataArguments) -> CatalogLabels:
        """Check that some products have several offers."""
        return CatalogLabels.find(products, data.catalog_id_column)

    @classmethod
    def labels_of_config(cls, config: EClipConfig, data: DataArguments) -> CatalogLabels:
        """Read the catalog id."""
        return CatalogLabels(["catalog_id"])

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Train the linear maps by the head's own loss, and keep them at their best on validation."""
        best = BestWeights(head.product_projection)

        def judge(epoch: int) -> None:
            self.fit_decisions(head, validation)
            best.offer(self.score(self.metrics(head, validation)), epoch)

        if head.evidence is not None:
            head.evidence.is_fitted.fill_(False)
        judge(0)
        fit_projection(head, train.embeds, train.labels, seed=self.arguments.seed, after_epoch=judge)
        best.restore()
        if head.evidence is not None:
            self.fit_lexical(head, train, validation)

    def fit_lexical(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit scores of pairs, beside vectors that are learned; groups are joined by what is better on validation."""
        head.evidence.is_fitted.fill_(False)
        self.fit_decisions(head, validation)
        by_vectors = self.score(self.metrics(head, validation))
        seed = self.arguments.seed
        pairs, labels = _labelled_pairs(head, train, seed=seed)
        held_out_pairs, held_out_labels = _labelled_pairs(head, validation, seed=seed)
        itself = torch.arange(len(train.labels))[: int(labels.sum()), None].expand(-1, 2)
        evidence, alike = _evidence(head, train, pairs), _evidence(head, train, itself)
        held_out = _evidence(head, validation, held_out_pairs)
        fit_evidence(head.evidence, evidence, labels, held_out, held_out_labels, itself=alike, seed=seed)
        if not head.scores_pairs:
            return
        head.config.calibration = calibrate(weigh_evidence(head.evidence, held_out), held_out_labels)
        self.fit_decisions(head, validation)
        if self.score(self.metrics(head, validation)) < by_vectors:
            head.evidence.is_fitted.fill_(False)
            self.fit_decisions(head, validation)

    def fit_fusion(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how much each modality of a product counts."""
        head.fit_fusion(on_device(head.device, validation.embeds), validation.labels)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Set the similarity from which groups are joined."""
        answered = answer(head, validation)
        head.fit_threshold(answered.embeds, validation.labels, products=answered.products)

    def fit_review(self, head: Any, products: Any, validation: Represented) -> None:
        """Join only what `target_precision` allows: of the pairs in a group so many are to be of one product.

        No offer is sent to review: what is not joined stays apart, and pairs of it are the work of a matching head.
        """
        target = self.arguments.target_precision
        head.config.target_precision, head.config.review_below = target, None
        if target is None:
            return
        answered = answer(head, validation)
        score = head.fit_threshold(
            answered.embeds, validation.labels, products=answered.products, min_precision=target
        )
        if score == 0:
            logger.warning("precision %g of pairs is not reached by any group: only equal offers are joined", target)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the groups at the threshold."""
        answered = answer(head, rows)
        groups = head.cluster(answered.embeds, products=answered.products)
        return ProductClustering.metrics(ProductClustering.outcomes(groups.numpy(), rows.labels.numpy()))

    def count_rows(self, rows: Represented) -> dict[str, int]:
        """Count all rows: an offer that is alone is a group of its own."""
        return {"measured": len(rows.rows)}

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Answer with the group of each offer."""
        answered = answer(split.head, split.represented)
        groups = split.head.cluster(answered.embeds, products=answered.products).numpy().astype(np.int64)
        catalogs = split.catalogs[split.rows]
        products = np.where(catalogs >= 0, catalogs, -1 - np.arange(len(catalogs)))  # one for each that is alone
        mistakes = []
        for members, shown, num_parts, num_wrong_pairs in _mixed(groups, products, split.rows):
            mistakes.append(
                Mistake(shown, f"one group of {members} offers", _part_words(num_parts, "products"), num_wrong_pairs)
            )
        for members, shown, num_parts, num_wrong_pairs in _mixed(products, groups, split.rows):
            mistakes.append(
                Mistake(shown, _part_words(num_parts, "groups"), f"one product of {members} offers", num_wrong_pairs)
            )
        return TaskAnswers(cls.metric, groups, catalogs, catalogs, mistakes=mistakes)

    @classmethod
    def draw(cls, answers: Mapping[str, TaskAnswers], metrics: Intervals, title: str, file: PlotFile) -> None:
        """Draw how groups agree with products, and how large both are."""
        wanted = ("accuracy", "_f1", "index", "measure")
        bars = {
            model: {name: of for name, of in found.items() if name.endswith(wanted)}
            for model, found in metrics.items()
        }
        draw_bars(bars, f"{title}: agreement with the products, with 95 % intervals", file("figures"))
        sizes = {"products": _sizes(next(iter(answers.values())).groups)}
        sizes |= {name: _sizes(one.predictions) for name, one in answers.items()}
        draw_group_sizes(sizes, f"{title}: groups by their size", file("group_sizes"))

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Join by average linkage; validation chooses the view of titles, how much it counts, and the threshold."""
        held_out = torch.tensor(given.splits["validation"]["catalog_id"])
        neighbors = EClipConfig().cluster_neighbors
        views = list(given.views["test"])
        title_views, has_image = [view for view in views if view != "image"], "image" in views
        ways: list[dict[str, float]] = [{"image": 1.0}] if has_image else []
        for view in title_views:
            ways += [{view: share, "image": 1 - share} for share in TEXT_SHARES[1:-1]] if has_image else []
            ways.append({view: 1.0})
        best: tuple[float, dict[str, float], float] | None = None
        for way in ways:
            joins = average_linkage(_dense(given.views["validation"], way), -1.0, num_neighbors=neighbors)
            threshold, score = joins.best_threshold(held_out)
            if best is None or score > best[0]:
                best = (score, way, threshold)
        assert best is not None
        score, way, threshold = best
        groups = average_linkage(_dense(given.views["test"], way), threshold, num_neighbors=neighbors).groups()
        if given.reads_lexical and title_views:
            literal_score, literal_groups = _group_literally(given, way)
            if literal_score > score:
                score, groups = literal_score, literal_groups
        return TaskAnswers(self.metric, groups.numpy().astype(np.int64), given.catalogs, given.catalogs), score


@torch.no_grad()
def _evidence(head: Any, rows: Represented, pairs: torch.Tensor) -> torch.Tensor:
    """Return what a head weighs of pairs of products, shape `(P, F)`; on the CPU."""
    return head.pair_evidence(on_device(head.device, rows.embeds), pairs).cpu()


def _labelled_pairs(head: Any, rows: Represented, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """List the pairs of products worth comparing, and whether they are of one catalog; some of them, if too many."""
    pairs = product_pairs(rows.embeds, head.config.cluster_neighbors)
    catalogs = rows.labels[pairs]
    labels = ((catalogs[:, 0] == catalogs[:, 1]) & (catalogs[:, 0] >= 0)).long()
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(pairs))[:_MAX_PAIRS]).sort().values
    return pairs[chosen], labels[chosen]


def _group_literally(given: BaselineData, way: Mapping[str, float]) -> tuple[float, torch.Tensor]:
    """Group the test offers by the literal evidence of their titles, beside the cosines of a way to join the views.

    Returns:
        The adjusted Rand index on validation, and the groups.
    """
    tables = dict(given.splits) | {"train": given.splits["train"].select(given.rows)}
    views = dict(given.views) | {"train": {name: of[given.rows] for name, of in given.views["train"].items()}}
    baseline = LexicalBaseline(given.splits["train"]["title"])
    lexical = {split: lexical_ids(table["title"]) for split, table in tables.items()}
    joined = {split: _joined(of, way) for split, of in views.items()}

    def features_of(split: str, found: torch.Tensor) -> torch.Tensor:
        left, right = found.numpy().T
        cosines = joined[split][left].multiply(joined[split][right]).sum(axis=1)
        return baseline.features(lexical[split], left, right, np.asarray(cosines, dtype=np.float32).ravel())

    pairs, labels = {}, {}
    for split, table in tables.items():
        near = _near_pairs(joined[split], EClipConfig().cluster_neighbors)
        alike = shared_ngram_pairs(lexical[split], EClipConfig().cluster_neighbors)
        found = unique_pairs(torch.cat([near, alike]), len(table))
        if split == "train":
            found = found[torch.from_numpy(np.random.default_rng(given.seed).permutation(len(found))[:_MAX_PAIRS])]
        pairs[split] = found
        catalogs = np.asarray(table["catalog_id"])[found.numpy()]
        labels[split] = ((catalogs[:, 0] == catalogs[:, 1]) & (catalogs[:, 0] >= 0)).astype(np.int64)
    features = {split: features_of(split, pairs[split]) for split in ("train", "validation")}
    baseline.fit(features, labels, seed=given.seed)
    slope, intercept = calibrate(baseline.score(features["validation"]), torch.from_numpy(labels["validation"]))
    joins = {}
    for split in JUDGED:

        def probabilities(found: torch.Tensor, split: str = split) -> torch.Tensor:
            return torch.sigmoid(slope * baseline.score(features_of(split, found)) + intercept)

        joins[split] = pair_linkage(
            *score_linked_pairs(pairs[split], probabilities, len(tables[split])), len(tables[split])
        )
    threshold, score = joins["validation"].best_threshold(torch.tensor(tables["validation"]["catalog_id"]))
    return score, joins["test"].groups(threshold)


def fit_projection(
    head: Any,
    embeds: ProductEmbeds,
    labels: torch.Tensor,
    *,
    seed: int,
    after_epoch: Callable[[int], None],
    num_epochs: int = 10,
    batch_size: int = 512,
    learning_rate: float = 3e-4,
) -> None:
    """Train the linear maps of a clustering head, with products of one catalog side by side in batches.

    Args:
        head: The head; of its weights only the maps are trained.
        embeds: Products to learn from.
        labels: Catalog of each, int64, shape `(N,)`, negative for one that is alone.
        seed: Seed of the order.
        after_epoch: Called with the number of each epoch that is over.
        num_epochs: Passes over the products.
        batch_size: Products in a batch.
        learning_rate: Rate of AdamW.
    """
    order = RowOrder(len(labels), seed, catalog_ids=labels.numpy(), mates_share=1.0)
    optimizer = torch.optim.AdamW(head.product_projection.parameters(), lr=learning_rate)
    for epoch in range(num_epochs):
        for start, stop in batch_spans(batch_size, (epoch + 1) * len(labels), epoch * len(labels)):
            rows = torch.from_numpy(order.rows(start, stop))
            head.answer(select_products(embeds, rows), labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after_epoch(epoch + 1)


def _mixed(whole: np.ndarray, parts: np.ndarray, rows: np.ndarray) -> list[tuple[int, list[int], int, float]]:
    """Return the wholes that are of several parts.

    Returns:
        Per whole the number of its members, a row of each of the largest parts, the number of parts, and the number of
        pairs of members of two parts.
    """
    order = np.argsort(whole, kind="stable")
    found = []
    for members in np.split(order, np.flatnonzero(np.diff(whole[order])) + 1):
        counts = Counter(parts[members].tolist())
        if len(counts) > 1:
            largest = [part for part, _ in counts.most_common(_NUM_SHOWN)]
            shown = [int(rows[members[parts[members] == part][0]]) for part in largest]
            num_wrong_pairs = (len(members) ** 2 - sum(count**2 for count in counts.values())) / 2
            found.append((len(members), shown, len(counts), num_wrong_pairs))
    return found


def _part_words(number: int, parts: str) -> str:
    return f"{number} {parts}" + (f", {_NUM_SHOWN} of them shown" if number > _NUM_SHOWN else "")


def _sizes(numbers: np.ndarray) -> np.ndarray:
    """Return how many rows each group has; those of negative numbers are alone."""
    alone = int((numbers < 0).sum())
    return np.concatenate([np.unique(numbers[numbers >= 0], return_counts=True)[1], np.ones(alone, dtype=np.int64)])


def _joined(views: Mapping[str, Any], shares: Mapping[str, float]) -> csr_array:
    """Concatenate views, each with its share of a dot product; n-grams are too many to be held densely."""
    return csr_array(hstack([csr_array(views[view]) * share**0.5 for view, share in shares.items()], dtype=np.float32))


def _dense(views: Mapping[str, Any], shares: Mapping[str, float]) -> torch.Tensor:
    """Concatenate views, as average linkage takes them: vectors with the same dot products, at most `N` numbers each.

    Titles have hundreds of thousands of n-grams. The Cholesky factor of the matrix of dot products has rows with the
    same dot products, in as many dimensions as there are rows.
    """
    joined = _joined(views, shares)
    if joined.shape[1] <= joined.shape[0]:
        return torch.from_numpy(joined.toarray())
    products = (joined.astype(np.float64) @ joined.T.astype(np.float64)).toarray()
    products[np.diag_indices_from(products)] += 1e-7  # equal titles leave it singular
    return torch.from_numpy(np.linalg.cholesky(products).astype(np.float32))


def _near_pairs(joined: csr_array, num_neighbors: int) -> torch.Tensor:
    """List the pairs of rows of which one is among the nearest of the other, as `candidate_pairs` does of vectors."""
    num_neighbors = min(num_neighbors + 1, joined.shape[0])  # each is the nearest to itself
    nearest = NearestNeighbors(n_neighbors=num_neighbors, metric="cosine", algorithm="brute").fit(joined)
    neighbors = torch.from_numpy(nearest.kneighbors(return_distance=False, X=joined)).flatten()
    rows = torch.arange(joined.shape[0]).repeat_interleave(num_neighbors)
    return unique_pairs(torch.stack([rows, neighbors], dim=1)[rows != neighbors], joined.shape[0])
