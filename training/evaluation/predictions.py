"""What a head answers about a split, beside what is right: as metrics take it, and as people read it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.arguments.groups import DataArguments
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.tasks.features import Represented
from training.tasks.labels import labels_of_config
from training.tasks.specification import answer

__all__ = ["Mistake", "TaskAnswers", "answer_task"]

_NUM_SHOWN = 6  # offers of a wrong group


@dataclass
class Mistake:
    """One wrong answer.

    Args:
        rows: The products that it is about, as rows of the table.
        said: What was answered.
        right: What is right.
        weight: How bad it is, the more the worse; of answers with a probability, how sure the head was.
    """

    rows: list[int]
    said: str
    right: str
    weight: float


@dataclass
class TaskAnswers:
    """A head's answers about `N` rows.

    Args:
        metric: Name of the metric module in `training/metrics`.
        predictions: What the metric takes as predictions, `N` of them.
        references: What it takes as references.
        outcome_settings: Further arguments of the metric that say what predictions and references mean.
        metric_settings: Further arguments of the metric that figures depend on.
        groups: Rows that are right or wrong together, such as those of a catalog, int64, shape `(N,)`; -1 for a row
            that is alone.
        mistakes: The wrong answers, the worst first.
        left_out: How many rows were not measured, by the reason.
        unknown: Labels that the head has no class for, and how often they occur; they count as mistakes.
    """

    metric: str
    predictions: Any
    references: Any
    groups: np.ndarray
    outcome_settings: dict[str, Any] = field(default_factory=dict)
    metric_settings: dict[str, Any] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)


def answer_task(
    task: str, head: Any, products: Products | ProductPairs, represented: Represented, data: DataArguments
) -> TaskAnswers:
    """Let a head answer.

    Args:
        task: `"category"`, `"attributes"`, `"matching"`, `"clustering"` or `"adult"`.
        head: The task's head.
        products: The products, or pairs of products.
        represented: Those of them that could be used, as the head sees them.
        data: The data arguments, which name the columns of the labels.

    Returns:
        The answers about all rows with a label.

    Raises:
        ValueError: a column is missing, or no row has a label.
    """
    table = products.products if isinstance(products, ProductPairs) else products
    labels = labels_of_config(task, head.config, data)
    columns = labels.columns if labels is not None else []
    if missing := [name for name in columns if name not in table.column_names]:
        raise ValueError(
            f"the split has no column {missing[0]!r}, where the checkpoint's labels are looked for; it has "
            f"{', '.join(sorted(table.column_names))}."
        )
    rows = _rows_of(represented.row_ids, _row_ids(products))
    label_rows = list(table.select_columns(columns)) if columns else []
    read = [label_rows[row] for row in rows] if columns else []
    catalogs = np.asarray(table["catalog_id"], dtype=np.int64)
    answers = _ANSWERS[task](_Split(head, products, represented, rows, labels, read, catalogs))
    if len(answers.references) == 0:
        raise ValueError(f"none of the {len(represented.row_ids)} usable rows has a label in {columns}.")
    answers.left_out["unusable"] = len(products) - len(represented.row_ids)
    answers.left_out = {reason: count for reason, count in answers.left_out.items() if count}
    answers.unknown = {column: counts for column, counts in answers.unknown.items() if counts}
    answers.mistakes.sort(key=lambda mistake: -mistake.weight)
    return answers


@dataclass
class _Split:
    """What a head answers about.

    Args:
        head: The head.
        products: The products, or pairs of products.
        represented: The `N` usable ones.
        rows: Where each of them is in `products`, shape `(N,)`.
        labels: Reads the labels.
        label_rows: The labels' columns of each.
        catalogs: Catalog of each row of the table, -1 for one that is alone.
    """

    head: Any
    products: Any
    represented: Represented
    rows: np.ndarray
    labels: Any
    label_rows: list[dict[str, Any]]
    catalogs: np.ndarray


def _category(split: _Split) -> TaskAnswers:
    column, paths = split.labels.columns[0], [tuple(path) for path in split.head.config.category_paths]
    probabilities = answer(split.head, split.represented).logits.softmax(dim=-1).double().numpy()
    right = [split.labels.path(row) for row in split.label_rows]
    labelled = np.array([bool(path) for path in right], dtype=bool)
    known = set(paths)
    mistakes = []
    for place in np.flatnonzero(labelled):
        best = int(probabilities[place].argmax())
        if paths[best] != right[place]:
            probability = float(probabilities[place, best])
            said = f"{' > '.join(paths[best])} ({probability:.2f})"
            mistakes.append(Mistake([int(split.rows[place])], said, " > ".join(right[place]), probability))
    return TaskAnswers(
        "product_category",
        probabilities[labelled],
        [list(path) for path in right if path],
        split.catalogs[split.rows[labelled]],
        outcome_settings={"category_paths": [list(path) for path in paths]},
        mistakes=mistakes,
        left_out={"without a label": int((~labelled).sum())},
        unknown={column: Counter(" > ".join(path) for path in right if path and path not in known)},
    )


def _attributes(split: _Split) -> TaskAnswers:
    names = list(split.head.config.attribute_names)
    logits = answer(split.head, split.represented).logits
    sureness = {name: logits[name].softmax(dim=-1).amax(dim=-1).tolist() for name in names}
    values = [split.labels.values(row) for row in split.label_rows]
    labelled = np.flatnonzero([any(value is not None for value in row.values()) for row in values])
    said, right = split.head.decode(logits), [[row[name] for name in names] for row in values]
    unknown: dict[str, Counter[str]] = {name: Counter() for name in names}
    mistakes = []
    for place in labelled:
        for name, value in zip(names, right[place], strict=True):
            if value is not None and value not in split.head.config.attributes[name]:
                unknown[name][value] += 1
            if value not in (None, said[place][name]):
                told = f"{name}: {said[place][name]} ({sureness[name][place]:.2f})"
                mistakes.append(
                    Mistake([int(split.rows[place])], told, f"{name}: {value}", float(sureness[name][place]))
                )
    return TaskAnswers(
        "product_attributes",
        [[said[place][name] for name in names] for place in labelled],
        [right[place] for place in labelled],
        split.catalogs[split.rows[labelled]],
        outcome_settings={"attributes": names, "not_stated": split.head.config.not_stated},
        metric_settings={"attributes": names},
        mistakes=mistakes,
        left_out={"without a label": len(values) - len(labelled)},
        unknown=unknown,
    )


def _adult(split: _Split) -> TaskAnswers:
    probabilities = split.head.probabilities(answer(split.head, split.represented).logits).double().numpy()
    right = np.array([split.labels.encode(row) for row in split.label_rows], dtype=np.int64)
    labelled = right >= 0
    return TaskAnswers(
        "adult_recognition",
        probabilities[labelled],
        right[labelled],
        split.catalogs[split.rows[labelled]],
        metric_settings={"threshold": split.head.decision_threshold},
        mistakes=_wrong_decisions(
            split.rows[labelled, None],
            probabilities[labelled],
            right[labelled],
            split.head.decision_threshold,
            ("not restricted", "restricted"),
        ),
        left_out={"without a label": int((~labelled).sum())},
    )


def _matching(split: _Split) -> TaskAnswers:
    probabilities = split.head.probabilities(answer(split.head, split.represented).logits).double().numpy()
    right = split.represented.labels.numpy().astype(np.int64)
    left_rows, right_rows = split.products.left[split.rows], split.products.right[split.rows]
    return TaskAnswers(
        "product_matching",
        probabilities,
        right,
        products_of_pairs(split.products)[left_rows],
        metric_settings={"threshold": split.head.decision_threshold},
        mistakes=_wrong_decisions(
            np.stack([left_rows, right_rows], axis=1),
            probabilities,
            right,
            split.head.decision_threshold,
            ("two products", "one product"),
        ),
    )


def _clustering(split: _Split) -> TaskAnswers:
    groups = split.head.cluster(answer(split.head, split.represented).embeds).numpy().astype(np.int64)
    catalogs = split.catalogs[split.rows]
    products = _own_if_alone(catalogs)
    joined = _mixed(groups, products, split.rows, "one group of {} offers", "{} products")
    apart = _mixed(products, groups, split.rows, "one product of {} offers", "{} groups")
    # What holds a mixed group together is what was answered; what holds a torn product together is right.
    mistakes = [*joined, *(Mistake(one.rows, one.right, one.said, one.weight) for one in apart)]
    return TaskAnswers("product_clustering", groups, catalogs, catalogs, mistakes=mistakes)


_ANSWERS: dict[str, Callable[[_Split], TaskAnswers]] = {
    "category": _category,
    "attributes": _attributes,
    "matching": _matching,
    "clustering": _clustering,
    "adult": _adult,
}


def _wrong_decisions(
    rows: np.ndarray, probabilities: np.ndarray, right: np.ndarray, threshold: float, words: tuple[str, str]
) -> list[Mistake]:
    """Return the rows on the wrong side of the threshold; `words` are those for no and for yes."""
    mistakes = []
    for place in np.flatnonzero((probabilities >= threshold) != (right == 1)):
        truth, probability = int(right[place]), float(probabilities[place])
        weight = 1 - probability if truth else probability
        mistakes.append(Mistake(rows[place].tolist(), f"{words[1 - truth]} ({probability:.2f})", words[truth], weight))
    return mistakes


def _mixed(whole: np.ndarray, parts: np.ndarray, rows: np.ndarray, said: str, right: str) -> list[Mistake]:
    """Return the wholes that are of several parts, with an offer of each of the largest parts."""
    order = np.argsort(whole, kind="stable")
    mistakes = []
    for members in np.split(order, np.flatnonzero(np.diff(whole[order])) + 1):
        counts = Counter(parts[members].tolist())
        if len(counts) > 1:
            shown = [int(rows[members[parts[members] == part][0]]) for part, _ in counts.most_common()]
            num_wrong_pairs = (len(members) ** 2 - sum(count**2 for count in counts.values())) / 2
            of_parts = right.format(len(shown)) + (f", {_NUM_SHOWN} of them shown" if len(shown) > _NUM_SHOWN else "")
            mistakes.append(Mistake(shown[:_NUM_SHOWN], said.format(len(members)), of_parts, num_wrong_pairs))
    return mistakes


def products_of_pairs(pairs: ProductPairs) -> np.ndarray:
    """Return the product of each row of the table, as far as the pairs themselves tell which rows are of one."""
    number, same = len(pairs.products), pairs.labels == 1
    links = coo_array((np.ones(same.sum()), (pairs.left[same], pairs.right[same])), shape=(number, number))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _own_if_alone(catalogs: np.ndarray) -> np.ndarray:
    """Return the catalogs, with one of its own for every row that is alone."""
    return np.where(catalogs >= 0, catalogs, -1 - np.arange(len(catalogs)))


def _row_ids(products: Products | ProductPairs) -> list[str]:
    if not isinstance(products, ProductPairs):
        return list(products["row_id"])
    names = list(products.products["row_id"])
    return [f"{names[left]} | {names[right]}" for left, right in zip(products.left, products.right, strict=True)]


def _rows_of(row_ids: Sequence[str], all_row_ids: Sequence[str]) -> np.ndarray:
    """Return the place of each id, both being in the same order; ids may repeat."""
    candidates = iter(enumerate(all_row_ids))
    places = [next(place for place, candidate in candidates if candidate == row_id) for row_id in row_ids]
    return np.array(places, dtype=np.int64)
