"""Pairs of products: labelled in a table, or derived from catalog ids; and their batches.

A batch of `N` pairs has the inputs of products with one more dimension, as for transformers' multiple-choice models:
`input_ids` `(N, 2, L)`, `pixel_values` `(N, 2, C, H, W)`, `has_text` `(N, 2)`, ..., and `labels` `(N,)`: 1 for the
same product, 0 for two products. `row_ids` are `N` pairs of ids. A pair with an unusable product is skipped.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.data.catalog_ids import NO_CATALOG, own_ids
from training.data.collator import ProductCollator, ReadRow
from training.data.columns import CANONICAL_FEATURES, SOURCE_FEATURES, SourceTag
from training.data.ids import NoIdError, id_texts, word_of
from training.data.row_places import RowFiles, row_files, told_file_row
from training.data.table_files import read_table

__all__ = [
    "PairCollator",
    "ProductPairs",
    "find_pairs",
    "load_pairs",
    "load_title_pairs",
    "pairs_of_catalogs",
    "titles_of_pairs",
]

logger = logging.getLogger(__name__)

_PAIR_COLUMNS = ("left", "right", "label")
_LABELS = {"1": 1, "true": 1, "0": 0, "false": 0}


@dataclass(frozen=True)
class ProductPairs:
    """Pairs of rows in one table of products.

    Args:
        products: Map-style products with the canonical columns.
        left: Row of each pair's first product, shape `(N,)`.
        right: Row of its second, shape `(N,)`.
        labels: 1 for the same product, else 0, shape `(N,)`.
    """

    products: datasets.Dataset
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray

    @property
    def column_names(self) -> list[str]:
        """Columns of the table of products."""
        return list(self.products.column_names)

    @property
    def row_files(self) -> list[RowFiles]:
        """Files that the products come from, as far as they are known."""
        return row_files(self.products)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.left)

    def select_columns(self, names: str | Sequence[str]) -> "ProductPairs":
        """Returns the same pairs of products with fewer columns."""
        return ProductPairs(self.products.select_columns(names), self.left, self.right, self.labels)

    def select(self, indices: np.ndarray) -> "ProductPairs":
        """Returns some of the pairs."""
        return ProductPairs(self.products, self.left[indices], self.right[indices], self.labels[indices])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Reads pairs: `row_id`, the two rows as `left` and `right`, and `label`."""
        chosen = np.asarray(indices, dtype=np.int64)
        needed, places = np.unique(np.concatenate([self.left[chosen], self.right[chosen]]), return_inverse=True)
        rows = self.products.__getitems__(needed.tolist())
        lefts, rights = places[: len(chosen)], places[len(chosen) :]
        return [
            {
                "row_id": f"{rows[left]['row_id']} | {rows[right]['row_id']}",
                "left": rows[left],
                "right": rows[right],
                "label": label,
            }
            for left, right, label in zip(lefts, rights, self.labels[chosen].tolist(), strict=True)
        ]


class PairCollator:
    """Turns pairs of rows into one batch.

    Args:
        collator: Reads the products; it has no labels, since the label is the pair's.
    """

    def __init__(self, collator: ProductCollator) -> None:
        """Keeps the collator."""
        self.collator = collator

    def __call__(self, rows: Sequence[Mapping[str, Any]], positions: Sequence[int]) -> dict[str, Any]:
        """Makes a batch, as the module describes it; the two products of a pair are augmented independently."""
        usable: list[ReadRow] = []
        pairs, skipped = [], []
        for row, position in zip(rows, positions, strict=True):
            reads = [
                self.collator.read(row["left"], 2 * position),
                self.collator.read(row["right"], 2 * position + 1),
            ]
            if reason := next((read for read in reads if isinstance(read, str)), None):
                skipped.append((row["row_id"], reason))
            else:
                usable += [read for read in reads if isinstance(read, ReadRow)]
                pairs.append(row)
        inputs = self.collator.inputs(usable or [self.collator.placeholder_row()] * 2)
        return {
            **{name: value.reshape(len(value) // 2, 2, *value.shape[1:]) for name, value in inputs.items()},
            "normalization": self.collator.normalization,
            "labels": torch.tensor([row["label"] for row in pairs] or [-100]),
            "catalog_ids": torch.tensor([row.catalog_id for row in usable], dtype=torch.int64).reshape(-1, 2),
            "row_ids": [row["row_id"] for row in pairs],
            "titles": [f"{left.title} | {right.title}" for left, right in zip(usable[::2], usable[1::2], strict=True)],
            "skipped": skipped,
            "passed_over": [(row.row_id, reason) for row in usable for reason in row.passed_over],
            "num_rows": len(rows),
        }


def load_pairs(path: str, products: datasets.Dataset, *, encoding: str = "utf-8") -> ProductPairs:
    """Loads labelled pairs of products.

    Args:
        path: Table with `left` and `right`, ids of rows, and `label`, 1 for the same product, else 0.
        products: Products whose `row_id` the pairs name.
        encoding: Encoding of a CSV or JSON file.

    Returns:
        The pairs of which both products are present; the number of other pairs is logged.

    Raises:
        ValueError: As `find_pairs` raises it.
    """
    return ProductPairs(products, *find_pairs(path, products["row_id"], encoding=encoding))


def find_pairs(
    path: str, row_ids: Sequence[str], *, encoding: str = "utf-8"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads labelled pairs, and finds the rows that they name.

    Args:
        path: Table with `left` and `right`, ids of rows, and `label`, 1 for the same product, else 0.
        row_ids: Ids of the rows.
        encoding: Encoding of a CSV or JSON file.

    Returns:
        Rows of the pairs' first and second products, and the labels, int64, shape `(N,)` each, of the pairs of which
        both products are present; the number of other pairs is logged.

    Raises:
        ValueError: If a column is missing, a label is neither 0 nor 1, no pair names two of these products, or one
            names an id that several rows have.
    """
    table, labels = _read_pairs(path, encoding)
    place: dict[str, int] = {}
    repeated: set[str] = set()
    for row, row_id in enumerate(row_ids):
        if place.setdefault(row_id, row) != row:
            repeated.add(row_id)
    lefts, rights = (_ids(table[name], path, name, encoding) for name in ("left", "right"))
    rows = []
    for number, (left, right, label) in enumerate(zip(lefts, rights, labels, strict=True)):
        if unclear := repeated & {left, right}:
            count, told = sum(one in unclear for one in row_ids), told_file_row(path, number, encoding)
            raise ValueError(
                f"{told} names the product {min(unclear)!r}, but {count} rows have that id; give a column whose "
                "values differ as `pair_id_column`, or leave repeated rows out."
            )
        if left in place and right in place:
            rows.append((place[left], place[right], label))
    if len(rows) < len(table):
        logger.warning("%s: %s of %s pairs name offers that are absent", path, len(table) - len(rows), len(table))
    if not rows:
        raise ValueError(
            f"no pair of {path} names two of the products, whose ids look like {list(place)[:3]}; set "
            "`pair_id_column` to the column that holds the ids in that file."
        )
    left, right, label = np.asarray(rows, dtype=np.int64).T
    return left, right, label


def load_title_pairs(path: str, *, encoding: str = "utf-8") -> ProductPairs:
    """Loads labelled pairs of titles: `left` and `right` are titles, and there are no images.

    Args:
        path: Table with `left`, `right` and `label`.
        encoding: Encoding of a CSV or JSON file.

    Returns:
        The pairs, of products that have only a title.

    Raises:
        ValueError: If a column is missing or is no text, or a label is neither 0 nor 1.
    """
    table, labels = _read_pairs(path, encoding)
    for name in ("left", "right"):
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(
                f"{path} holds {kind} as {name!r} and no titles; set `pair_id_column` to the column of the products "
                "that holds these ids."
            )
    both = [["" if title is None else title for title in table[name].to_pylist()] for name in ("left", "right")]
    titles = list(dict.fromkeys(both[0] + both[1]))
    place = {title: index for index, title in enumerate(titles)}
    number = len(titles)
    columns = {"title": titles, "image": [None] * number, "catalog_id": [NO_CATALOG] * number, "row_id": titles}
    products = datasets.Dataset.from_dict(columns, features=datasets.Features(CANONICAL_FEATURES))
    left, right = (np.asarray([place[title] for title in column], dtype=np.int64) for column in both)
    return ProductPairs(products, left, right, np.asarray(labels, dtype=np.int64))


def titles_of_pairs(paths: Sequence[str], tag: SourceTag, *, encoding: str = "utf-8") -> datasets.Dataset:
    """Turns labelled pairs of titles into products: those that pairs with label 1 connect are of one catalog.

    Pairs with label 0 connect nothing; what they tell is that two similar titles are of different catalogs.

    Args:
        paths: Tables with `left`, `right` and `label`.
        tag: Marks the rows as those of a source.
        encoding: Encoding of CSV and JSON files.

    Returns:
        Products with the canonical columns and those of the source: each title once, without an image.

    Raises:
        ValueError: As `load_title_pairs` raises it.
    """
    parts = [load_title_pairs(path, encoding=encoding) for path in paths]
    place: dict[str, int] = {}
    edges = []
    for part in parts:
        titles = [title.strip() for title in part.products["title"]]
        places = np.array([place.setdefault(title, len(place)) for title in titles], dtype=np.int64)
        has_title = np.array([bool(title) for title in titles])
        # A missing title is not one that two offers have in common.
        same = (part.labels == 1) & has_title[part.left] & has_title[part.right]
        edges.append(np.stack([places[part.left[same]], places[part.right[same]]]))
    left, right = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(len(place), len(place)))
    groups = connected_components(graph, directed=False)[1]
    is_alone = np.bincount(groups)[groups] == 1
    columns = {
        "title": list(place),
        "image": [None] * len(place),
        "catalog_id": np.where(is_alone, NO_CATALOG, own_ids(groups, tag.number)),
        "row_id": [f"{tag.prefix}{title}" for title in place],
        "source:number": [tag.number] * len(place),
        "source:weight": [tag.weight] * len(place),
    }
    products = datasets.Dataset.from_dict(columns, features=datasets.Features(CANONICAL_FEATURES | SOURCE_FEATURES))
    return products.filter(bool, input_columns="title")


def _read_pairs(path: str, encoding: str) -> tuple[pa.Table, list[int]]:
    table = read_table(path, encoding)
    for column in _PAIR_COLUMNS:
        if column not in table.column_names:
            raise ValueError(f"{path} has no column {column!r}; it has {table.column_names}.")
    words = [word_of(label, "label") for label in table["label"].to_pylist()]
    labels = [_LABELS.get((word or "").lower()) for word in words]
    if others := sorted({str(word) for word, label in zip(words, labels, strict=True) if label is None}):
        first = told_file_row(path, labels.index(None), encoding)
        raise ValueError(
            f"{path} has the labels {others[:5]}, the first of them in {first}; give 1 for the same product, else 0."
        )
    return table.select(list(_PAIR_COLUMNS)), [label for label in labels if label is not None]


def _ids(column: pa.ChunkedArray, path: str, name: str, encoding: str) -> list[str | None]:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    try:
        return id_texts(array, f"{path}: column {name!r}").to_pylist()
    except NoIdError as error:
        raise ValueError(f"{error} That is {told_file_row(path, error.row, encoding)}.") from error


def pairs_of_catalogs(
    products: datasets.Dataset, *, seed: int, negatives: int = 3, group_column: str | None = None
) -> ProductPairs:
    """Derives pairs from catalog ids: offers of one catalog, and for each pair some offers of two catalogs.

    Half of the negatives are drawn from the group of the pair's first product, such as its category, if groups are
    given: these are the harder ones (this package's design).

    Args:
        products: Products with the canonical columns.
        seed: Seed of what is drawn.
        negatives: Negative pairs per positive one.
        group_column: Column whose equal values form a group.

    Returns:
        The pairs: every offer with the next one of its catalog, and the negatives.

    Raises:
        ValueError: If no catalog has two offers, or there is only one catalog.
    """
    ids = np.asarray(products["catalog_id"])
    with_mates = np.flatnonzero(ids != NO_CATALOG)
    order = with_mates[np.argsort(ids[with_mates], kind="stable")]
    is_pair = ids[order[:-1]] == ids[order[1:]]
    left, right = order[:-1][is_pair], order[1:][is_pair]
    if len(left) == 0 or len(np.unique(ids)) < 2:
        raise ValueError(
            "matching needs offers that share a catalog and offers that do not, and `catalog_id_column` has only one "
            "of the two; name another column, or labelled pairs as `train_pairs` and `validation_pairs`."
        )
    rng = np.random.default_rng((seed, len(ids)))
    lefts = np.repeat(left, negatives)
    rights = rng.integers(0, len(ids), len(lefts))
    if group_column is not None and group_column in products.column_names:
        groups = [str(value) for value in products[group_column]]
        members: dict[str, list[int]] = {}
        for row, group in enumerate(groups):
            members.setdefault(group, []).append(row)
        for place in range(0, len(lefts), 2):
            group_rows = members[groups[lefts[place]]]
            rights[place] = group_rows[rng.integers(len(group_rows))]
    is_negative = (ids[lefts] != ids[rights]) & (lefts != rights)
    return ProductPairs(
        products,
        np.concatenate([left, lefts[is_negative]]),
        np.concatenate([right, rights[is_negative]]),
        np.concatenate([np.ones(len(left), np.int64), np.zeros(int(is_negative.sum()), np.int64)]),
    )
