"""How a user's columns are mapped to the canonical columns `title`, `image`, `catalog_id` and `row_id`.

`training.data.read_tables` says what each canonical column holds. A user's column that has a canonical name but is not
mapped to it is kept as `<name>_original` (once more where there is such a column), all others under their own names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.data.catalog_ids import NO_CATALOG, catalog_numbers, own_ids
from training.data.class_names import class_names, named_feature
from training.data.collator import FROZEN_COLUMNS
from training.data.fields import FIELD_FEATURES, IMAGE_WEIGHTS, TEXTS, as_lists, images_column, weighted_texts
from training.data.ids import NoIdError, id_texts, word_of
from training.data.row_places import RowFiles, told_rows

__all__ = ["CANONICAL_FEATURES", "SOURCE_FEATURES", "ColumnLayout", "ProductColumns", "SourceTag"]

CANONICAL_FEATURES = {
    "title": datasets.Value("string"),
    "image": datasets.Image(decode=False),
    "catalog_id": datasets.Value("int64"),
    "row_id": datasets.Value("string"),
}
"""The canonical columns and their types."""
SOURCE_FEATURES = {"source:number": datasets.Value("int32"), "source:weight": datasets.Value("float64")}
"""Columns of products that are of several sources; see `training.data.sources`."""
_JOINED = "joined"
_NONE = "none"  # the name that users give where a table has no titles or no images


@dataclass(frozen=True)
class SourceTag:
    """Marks the rows of one of several sources.

    Args:
        number: Its number.
        weight: How often its rows are visited in an epoch.
        has_own_catalogs: Whether its catalog ids are another source's only by chance.
        prefix: Goes before row ids that a column names; nothing where rows are found by them.
    """

    number: int
    weight: float
    has_own_catalogs: bool
    prefix: str = ""


@dataclass(frozen=True)
class ProductColumns:
    """The names of the user's columns that the canonical columns are read from.

    Args:
        title: Column with the title; `"none"` where there are no titles. Several texts are a mapping of their columns,
            the title first, to their weights, with that of the `joined` text; see `training.data.fields`. A cell may
            be a list of texts.
        image: Column with the image: a `datasets.Image`, its bytes, or a path (relative to the table's folder);
            `"none"` where there are no images. In a table without this column, `file_name` is used, as in the image
            folders of `datasets`. Several columns are a mapping to their weights, and a cell may be a list of images.
        catalog_id: Columns with the id of the product, tried in this order; per row the first that is not null wins.
            A non-negative integer is kept, any other integer or text is hashed; null, NaN, -1 and blank text mean
            "alone". The same id in two sources is the same product. `"none"` where there are no ids.
        row_id: Column with the id of the row, which becomes text as `training.data.ids` says. Without it, or where it
            is null, the id is `<source>:<index>`.
        tag: Marks the rows where there are several sources.
    """

    title: str | Mapping[str, float] = "title"
    image: str | Mapping[str, float] = "image"
    catalog_id: tuple[str, ...] = ("catalog_id",)
    row_id: str | None = None
    tag: SourceTag | None = None

    def __post_init__(self) -> None:
        """Accepts a single column name for `catalog_id`, and `"none"`."""
        names = (self.catalog_id,) if isinstance(self.catalog_id, str) else tuple(self.catalog_id)
        object.__setattr__(self, "catalog_id", () if names == (_NONE,) else names)

    def fields(self, field: str) -> dict[str, float]:
        """Returns the columns of `"title"` or `"image"` and their weights, without that of the joined text."""
        given = getattr(self, field)
        weights = {given: 1.0} if isinstance(given, str) else given
        return {name: weight for name, weight in weights.items() if name not in (_JOINED, _NONE)}

    @property
    def joined_weight(self) -> float:
        """How often all texts are drawn as one."""
        return 0.0 if isinstance(self.title, str) else self.title.get(_JOINED, 0.0)

    def told(self, field: str, name: str) -> str:
        """Returns the argument that names a column, for errors."""
        is_single = isinstance(getattr(self, field), str)
        return f"{self.argument(field)}={name!r}" if is_single else f"{self.argument(field)} names {name!r}"

    def argument(self, field: str) -> str:
        """Returns the argument that `"title"` or `"image"` was given by."""
        several = {"title": "text_columns", "image": "image_columns"}[field]
        return f"{field}_column" if isinstance(getattr(self, field), str) else several


class ColumnLayout:
    """How the columns of one part of a source become canonical columns.

    Args:
        source: Name of the source, for errors and row ids.
        features: Columns of the part, and their types.
        columns: The user's column names.
        folder: Folder that relative paths of images start from; `None` to leave paths as they are.
        row_files: The files of the part, to tell where a row is.

    Attributes:
        names: Columns of the part.
        absent: Columns that the part should have and has not, with `"title"` or `"image"`.
        titles: Columns of texts that the part has, and their weights.
        images: Columns of images that it has, by the canonical columns that they become.
        kept: Columns that are kept beside the canonical ones, and their new names.
        class_names: Those of them, by their new names, that hold numbers of classes whose names the part tells
            (`datasets.ClassLabel`), and their type once they hold the names.

    Raises:
        ValueError: If the image column holds no images.
    """

    def __init__(
        self,
        source: str,
        features: datasets.Features,
        columns: ProductColumns,
        folder: Path | None,
        row_files: RowFiles | None = None,
    ) -> None:
        """Finds the columns."""
        self._row_files = [] if row_files is None else [row_files]
        self.source, self.names, self.columns, self.folder = source, tuple(features), columns, folder
        self.absent: list[tuple[str, str]] = []
        self.titles = self._find("title")
        images = self._find("image")
        if not images and columns.fields("image") and "file_name" in features:
            self.absent = [found for found in self.absent if found[0] != "image"]
            images = {"file_name": 1.0}
        self.made: dict[str, Any] = CANONICAL_FEATURES | (SOURCE_FEATURES if columns.tag is not None else {})
        if len(columns.fields("title")) > 1 or any(_is_list(features[name]) for name in self.titles):
            self.made |= {TEXTS: FIELD_FEATURES[TEXTS]}
        self.images = self._image_columns(images, features)
        self.catalog_ids = [name for name in columns.catalog_id if name in features]
        self.row_id = columns.row_id if columns.row_id in features else None
        ids = {name for name in (*self.catalog_ids, self.row_id) if name in CANONICAL_FEATURES}
        # The other texts may be labels, too.
        replaced = {*list(columns.fields("title"))[:1], *self.images.values(), *ids}
        self.kept = {name: self._free_name(name) for name in self.names if name not in replaced}
        self._features = features
        self.class_names = {
            new: named for old, new in self.kept.items() if (named := named_feature(features[old])) is not None
        }

    def _free_name(self, name: str) -> str:
        """Returns the name of a kept column: its own, unless that has a meaning here."""
        has_meaning = name in {*self.made, *SOURCE_FEATURES, *FIELD_FEATURES, *FROZEN_COLUMNS}
        while has_meaning and name in {*self.made, *self.names}:
            name += "_original"
        return name

    def _find(self, field: str) -> dict[str, float]:
        named = self.columns.fields(field)
        self.absent += [(field, name) for name in named if name not in self.names]
        return {name: weight for name, weight in named.items() if name in self.names}

    def _image_columns(self, images: Mapping[str, float], features: datasets.Features) -> dict[str, str]:
        """Finds which canonical column each column of images becomes; adds those of several to what is made."""
        for name in images:
            feature = features[name].feature if _is_list(features[name]) else features[name]
            if not _is_text(feature):
                place = f"{self.columns.told('image', name)}: source {self.source!r}"
                _check_images(place, datasets.Features({"image": feature}).arrow_schema.field(0).type)
        named = self.columns.fields("image")
        if len(named) <= 1 and not any(_is_list(features[name]) for name in images):
            return dict(zip(("image",), images, strict=False))
        # All of them in every part, so that parts have the same columns.
        self.made |= {images_column(number): FIELD_FEATURES[images_column(0)[:-1]] for number in range(len(named))}
        self.made |= {IMAGE_WEIGHTS: FIELD_FEATURES[IMAGE_WEIGHTS]}
        found = {}
        for number, name in enumerate(images if "file_name" in images else named):
            if name in images:
                is_first = number == 0 and not _is_list(features[name])
                found["image" if is_first else images_column(number)] = name
        return found

    def images_in_place(self) -> dict[str, str]:
        """Returns the canonical columns of images whose user's column holds images, and not paths: that column."""
        features = {made: self._features[name] for made, name in self.images.items()}
        return {
            made: self.images[made]
            for made, feature in features.items()
            if not _is_text(feature.feature if _is_list(feature) else feature)
        }

    def read_from(self, name: str) -> list[str]:
        """Lists the columns of the part that a canonical or kept column is made of."""
        if name == "catalog_id":
            return self.catalog_ids
        if name == "row_id":
            return [self.row_id] if self.row_id is not None else []
        if name in SOURCE_FEATURES and name in self.made:
            return []
        if name in ("title", TEXTS):
            return list(self.titles)
        if name in self.made:
            return [self.images[name]] if name in self.images else []
        return [self._kept_from(name)]

    def _kept_from(self, name: str) -> str:
        return next(old for old, new in self.kept.items() if new == name)

    def make(self, name: str, table: pa.Table, index: np.ndarray) -> pa.Array:
        """Makes a canonical or kept column.

        Args:
            name: Name of the column.
            table: `N` rows with at least the columns that it is made of.
            index: Places of the rows in the source, shape `(N,)`.

        Returns:
            The column, `N` values.

        Raises:
            ValueError: If the user's column has a type that cannot be converted, or a value that is no id.
        """
        try:
            return self._make(name, table, index)
        except NoIdError as error:
            row_id = f"{self.source}:{index[error.row]}"
            (told,) = told_rows([row_id], self._row_files)
            raise ValueError(f"{error} That is {told}." if told != row_id else str(error)) from error

    def _make(self, name: str, table: pa.Table, index: np.ndarray) -> pa.Array:
        if name == "title" and len(self.titles) == 1 and TEXTS not in self.made:
            return self._titles(table, *self.titles)
        if name in ("title", TEXTS):
            texts = self._texts(table) if self.titles else [[]] * len(index)
            joined = [found[-1]["text"] if found else None for found in texts]
            kind = datasets.Features(FIELD_FEATURES).arrow_schema.field(TEXTS).type
            return pa.array(joined, pa.string()) if name == "title" else pa.array(texts, kind)
        if name == "row_id":
            made = pa.array([f"{self.source}:{i}" for i in index.tolist()], type=pa.string())
            if self.row_id is None:
                return made
            place = f"id_column={self.row_id!r}: source {self.source!r}"
            given = id_texts(self._column(table, self.row_id), place)
            prefix = self.columns.tag.prefix if self.columns.tag is not None else ""
            return pc.coalesce(pc.binary_join_element_wise(prefix, given, "") if prefix else given, made)
        if name == "catalog_id":
            catalog_ids = np.full(len(index), NO_CATALOG, dtype=np.int64)
            for column in self.catalog_ids:
                place = f"catalog_id_column={column!r}: source {self.source!r}"
                found = catalog_numbers(self._column(table, column), place)
                catalog_ids = np.where(catalog_ids == NO_CATALOG, found, catalog_ids)
            tag = self.columns.tag
            return pa.array(own_ids(catalog_ids, tag.number) if tag and tag.has_own_catalogs else catalog_ids)
        if name in SOURCE_FEATURES and name in self.made:
            tag = self.columns.tag
            assert tag is not None
            kind = SOURCE_FEATURES[name].pa_type
            return pa.array(np.full(len(index), tag.number if name == "source:number" else tag.weight), kind)
        if name == IMAGE_WEIGHTS:
            return pa.array([list(self.columns.fields("image").values())] * len(index), pa.list_(pa.float64()))
        if name in self.made:
            images = None if name not in self.images else _column(table, self.images[name])
            return self.make_images(name, images, len(index))
        return self._column(table, self._kept_from(name))

    def _column(self, table: pa.Table, name: str) -> pa.Array:
        """Returns a column; class numbers become the names that the part tells."""
        column = _column(table, name)
        return column if named_feature(self._features[name]) is None else class_names(column, self._features[name])

    def excluded_rows(self, table: pa.Table, rules: Sequence[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
        """Finds the rows that rules exclude.

        Args:
            table: `N` rows.
            rules: Columns, and the value of each, written as text, whose rows are excluded.

        Returns:
            For every rule whose column the table has, which rows it excludes, bool, shape `(N,)`.

        Raises:
            ValueError: If a column does not hold single values.
        """
        excluded = {}
        for name, value in rules:
            if name in table.column_names:
                column = self._column(table, name)
                if pa.types.is_nested(column.type):
                    raise ValueError(
                        f"exclude_rows={name}={value!r}: column {name!r} holds {column.type}. Name a column of single "
                        "values."
                    )
                distinct = column.dictionary_encode()
                words = [_rule_word(found, name) for found in distinct.dictionary.to_pylist()]
                is_equal = np.array([*(word == _rule_word(value, name) for word in words), False])
                excluded[name, value] = is_equal[distinct.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
        return excluded

    def _titles(self, table: pa.Table, name: str) -> pa.Array:
        return self._as_text(self._column(table, name), name)

    def _as_text(self, titles: pa.Array, name: str) -> pa.Array:
        if pa.types.is_floating(titles.type):
            return pa.array([word_of(value, name) for value in titles.to_pylist()], pa.string())
        if pa.types.is_nested(titles.type) or pa.types.is_binary(titles.type):
            raise ValueError(
                f"{self.columns.told('title', name)}: source {self.source!r} holds {titles.type} there. Name a text "
                "column."
            )
        return titles.cast(pa.string())

    def _texts(self, table: pa.Table) -> list[list[dict[str, Any]]]:
        """Returns the weighted texts of each row."""
        columns = []
        for name in self.titles:
            cells = self._column(table, name)
            if not _holds_lists(cells):
                columns.append([[text or ""] for text in self._titles(table, name).to_pylist()])
                continue
            texts = iter(self._as_text(cells.flatten(), name).to_pylist())
            counts = pc.list_value_length(cells).fill_null(0).to_pylist()
            columns.append([[text or "" for text in islice(texts, count)] for count in counts])
        names, joined = list(self.titles), self.columns.joined_weight
        if names[0] != next(iter(self.columns.fields("title"))):  # no title: all come with their names
            names, columns = ["", *names], [[[]] * len(table), *columns]
        return [weighted_texts(names, cells, self.titles, joined) for cells in zip(*columns, strict=True)]

    def make_images(self, name: str, images: pa.Array | None, num_rows: int) -> pa.Array:
        """Makes `image`, or a column of lists of images, without a copy of bytes.

        Args:
            name: Name of the canonical column.
            images: The user's column, or a chunk of it; `None` where the part has none.
            num_rows: Length of the column.

        Returns:
            The column.
        """
        feature = self.made[name]
        if images is None:
            kind = datasets.Features({name: feature}).arrow_schema.field(name).type
            return pa.nulls(num_rows, kind)
        is_list = _holds_lists(images)
        values = images.flatten() if is_list else images
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_null(values.type):
            values = pa.array([self._resolve(path) for path in values.to_pylist()], type=pa.string())
        values = CANONICAL_FEATURES["image"].cast_storage(values)
        if name == "image":
            return values
        if not is_list:
            return as_lists(values)
        lengths = pc.list_value_length(images).fill_null(0).to_numpy(zero_copy_only=False)
        return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), values)

    def _resolve(self, path: str | None) -> str | None:
        if self.folder is None or not path or "://" in path:
            return path or None
        return str(self.folder / path)


def _holds_lists(column: pa.Array) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(column.type) for is_kind in kinds)


def _is_list(feature: Any) -> bool:
    return isinstance(feature, datasets.List | datasets.LargeList)


def _is_text(feature: Any) -> bool:
    return feature in (datasets.Value("string"), datasets.Value("large_string"))


def _check_images(place: str, kind: pa.DataType) -> None:
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    is_image = pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}
    if not (is_binary or is_image or pa.types.is_null(kind)):
        raise ValueError(f"{place} holds {kind} there. Name a column of images, of their bytes, or of paths.")


def _rule_word(value: Any, column: str) -> str | None:
    """Returns a value as rules compare it: truth values by either spelling."""
    word = word_of(value, column)
    return word.lower() if word is not None and word.lower() in ("true", "false") else word


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # older versions of pyarrow return this for a table without rows
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
