"""Read the offers of a part: clean each title and examine each image. Offers are not compared here.

A part of the input becomes a folder of parquet files, which hold the offers and the values that later steps compare
them by. Later steps read only the columns that they need; images are read once more, when shards are written.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import daft
import daft.functions as F
import numpy as np
import pyarrow as pa
from daft import DataType, Expression, Series, col
from daft.context import execution_config_ctx
from daft.exceptions import DaftCoreException

from training.arguments.prepare import ImageLimits, PrepareArguments
from training.corpus.fetch_images import image_bytes
from training.corpus.image_facts import THUMBNAIL_SIDE
from training.corpus.offer_facts import FACTS, RawOffer, describe_offers
from training.corpus.plan_parts import Part
from training.corpus.sandbox import in_process
from training.corpus.title_rules import TitleRule
from training.data.catalog_ids import catalog_numbers
from training.data.files import whole_folder, without_secrets, write_json
from training.data.ids import id_texts
from training.data.table_files import plain_schema

__all__ = ["OWN", "part_name", "part_of", "prepare_part", "read_rows", "read_unreadable"]

logger = logging.getLogger("training")

OWN = "own."
"""Prefix of the input's further columns, which are kept under their own names."""

# Columns that the input may lack while their names are the defaults.
_MAY_LACK = {field: getattr(PrepareArguments, field) for field in ("catalog_id_column", "category_column")}
_ROWS_AT_ONCE = 32  # rows whose images a thread holds in memory together
# Images are large: few rows are passed on at a time, and files are written when they are small.
_SMALL_STEPS: dict[str, Any] = {
    "default_morsel_size": _ROWS_AT_ONCE,
    "parquet_target_row_group_size": 2**24,  # bytes
    "parquet_target_filesize": 2**26,
}


def prepare_part(
    number: int, part: Part, folder: Path, arguments: PrepareArguments, rules: Sequence[TitleRule]
) -> None:
    """Read a part of the input and write `folder/part-NUMBER`, unless it exists.

    What of it can't be read is left out, and told in `folder/unreadable-NUMBER.json`.

    Args:
        number: The part's number.
        part: The part.
        folder: Folder of the parts.
        arguments: Names of columns, and limits.
        rules: Rules that clean titles.

    Raises:
        EncodingError: a CSV or JSON file is not of the encoding.
        ValueError: a column is missing, or an id is none.
    """
    done = folder / part_name(number)
    if done.is_dir():
        return
    unreadable: dict[str, str] = {}

    def write(offers: daft.DataFrame) -> None:
        with whole_folder(done) as partial, execution_config_ctx(**_SMALL_STEPS):
            _frame(number, part, offers, arguments, rules).write_parquet(str(partial), write_mode="append")
            if unreadable:  # before the folder has its name: a part that is done is not looked at again
                told = {without_secrets(what): without_secrets(why) for what, why in unreadable.items()}
                write_json(told, folder / f"unreadable-{number:05d}.json")

    try:
        write(part.read(arguments.encoding, unreadable))
    except BaseException as error:
        # Daft's engine ends in a panic, which is no `Exception`, where text is no UTF-8.
        is_of_engine = isinstance(error, DaftCoreException) or type(error).__name__ == "PanicException"
        if not (is_of_engine and part.is_parquet and part.is_local):
            raise
        logger.warning("part %s is read again, without what is broken: %s", number, str(error).splitlines()[0])
        write(part.read_what_is_whole(unreadable))
    for what, why in unreadable.items():
        logger.warning("%s is skipped: %s", without_secrets(what), without_secrets(why))


def read_unreadable(folder: Path) -> dict[str, str]:
    """Return what of the parts' input could not be read, and why."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("unreadable-*.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def read_rows(folder: Path, number: int | None = None) -> daft.DataFrame:
    """Return the offers of one part, or of all parts."""
    name = "part-*" if number is None else part_name(number)
    return daft.read_parquet(str(folder / name / "*.parquet"))


def part_name(number: int) -> str:
    """Return the name of a part's folders and files."""
    return f"part-{number:05d}"


def part_of(rows: np.ndarray) -> np.ndarray:
    """Return the part of each row number, shape `(N,)`."""
    return (rows >> np.uint64(48)).astype(np.int64)


def _frame(
    number: int, part: Part, offers: daft.DataFrame, arguments: PrepareArguments, rules: Sequence[TitleRule]
) -> daft.DataFrame:
    mapped = [arguments.title_column, arguments.image_column, arguments.id_column, arguments.catalog_id_column]
    names = offers.column_names
    for field in ("title_column", "image_column", "id_column", "catalog_id_column", "category_column"):
        name = getattr(arguments, field)
        if name and name not in names and name != _MAY_LACK.get(field):
            raise ValueError(
                f"`{field}` is {name!r}, a column that {part.paths[0]} has not; it has {', '.join(sorted(names))}."
            )
    kind = offers.schema()[arguments.title_column].dtype
    if not (kind.is_string() or kind.is_binary() or kind.is_numeric() or kind.is_null()):
        raise ValueError(f"`title_column` is {arguments.title_column!r}, which holds {kind}; name a column of text.")
    limits = ImageLimits(
        max_bytes=arguments.max_image_bytes,
        min_side=arguments.min_image_side,
        max_aspect_ratio=arguments.max_aspect_ratio,
        min_contrast=arguments.min_image_contrast,
    )
    optional = [
        col(name) if name in names else daft.lit(None).cast(DataType.string())
        for name in (arguments.catalog_id_column, arguments.category_column)
    ]
    title = col(arguments.title_column).cast(DataType.string())
    offers = offers.into_batches(_ROWS_AT_ONCE)  # CSV and JSON readers return all rows at once; images come after
    offers = offers.with_column("_image", image_bytes(offers, part.folder, arguments))
    others = F.to_struct(
        **{f"c{place}": col(name) for place, name in enumerate(sorted({*names} - {*mapped}))} or {"c": title}
    )
    offers = offers.with_column("_facts", _describer(rules, limits)(title, col("_image"), others, *optional))
    facts = {name: col("_facts")[name] for name in FACTS.names if name != "thumbnail"}
    canonical = {
        "row": _row_number(number),
        "id": _ids(offers, arguments.id_column) if arguments.id_column else facts["content"],
        **facts,
        "title_original": title,
        "image": col("_image")["bytes"],
    }
    for name, pixels in (("image_hash", _upright), ("mirrored_hash", _mirrored)):
        canonical[name] = F.image_hash(pixels(col("_facts")["thumbnail"])).cast(DataType.binary())
    held = plain_schema(pa.schema([(one.name, one.dtype.to_arrow_dtype()) for one in offers.schema()]), part.paths[0])
    otherwise = _told_otherwise(offers, arguments)
    own = [col(name).alias(OWN + name) for name in names if name in held.names and name not in otherwise]
    return offers.select(*[value.alias(name) for name, value in canonical.items()], *own)


def _told_otherwise(offers: daft.DataFrame, arguments: PrepareArguments) -> set[str]:
    """Return the columns that the corpus holds as they are given under another name, or that are large."""
    kinds = {field.name: field.dtype for field in offers.schema()}
    found = {arguments.id_column}
    if arguments.title_column == "title":  # it is there as `title_original`
        found.add("title")
    if arguments.image_column == "image" or not kinds[arguments.image_column].is_string():
        found.add(arguments.image_column)
    catalog = arguments.catalog_id_column
    if catalog == "catalog_id" and catalog in kinds and (kinds[catalog].is_integer() or kinds[catalog].is_null()):
        found.add(catalog)
    return found


def _ids(offers: daft.DataFrame, name: str) -> Expression:
    """Return ids as they are given: whole numbers of a column of whole numbers, or text."""
    if offers.schema()[name].dtype.is_integer():
        return col(name)

    @daft.func.batch(return_dtype=DataType.string())
    def texts(ids: Series) -> Series:
        return Series.from_arrow(id_texts(ids.to_arrow(), "`id_column`"))

    return texts(col(name))


def _row_number(part: int) -> Expression:
    """Return a unique number for each row of the input: 16 bits for the part, 16 for the partition, 32 for the row."""
    place = F.monotonically_increasing_id()  # 28 bits of partition, 36 of row

    def number(value: int) -> Expression:
        return daft.lit(value).cast(DataType.uint64())

    partition, row = place // number(2**36), place % number(2**36)
    return number(part * 2**48) + partition * number(2**32) + row


def _describer(rules: Sequence[TitleRule], limits: ImageLimits) -> Any:
    """Return the function that computes the facts of offers."""

    @daft.func.batch(return_dtype=DataType.from_arrow_type(FACTS), batch_size=_ROWS_AT_ONCE)
    def describe(titles: Series, images: Series, others: Series, catalogs: Series, categories: Series) -> Series:
        catalog_ids = catalog_numbers(catalogs.to_arrow(), "`catalog_id_column`").tolist()
        columns = (titles.to_pylist(), images.to_pylist(), others.to_pylist(), catalog_ids, categories.to_pylist())
        offers = [
            RawOffer(title, image["bytes"], image["reason"], *facts)
            for title, image, *facts in zip(*columns, strict=True)
        ]
        without = RawOffer.with_unreadable_image
        return Series.from_arrow(in_process(describe_offers, offers, rules, limits, without=without))

    return describe


def _pixels(thumbnails: Series, step: int) -> list[np.ndarray | None]:
    shape = (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 1)
    return [
        None if one is None else np.frombuffer(one, np.uint8).reshape(shape)[:, ::step]
        for one in thumbnails.to_pylist()
    ]


_SMALL_IMAGE = DataType.image("L", THUMBNAIL_SIDE, THUMBNAIL_SIDE)


@daft.func.batch(return_dtype=_SMALL_IMAGE, batch_size=_ROWS_AT_ONCE)
def _upright(thumbnails: Series) -> list[np.ndarray | None]:
    return _pixels(thumbnails, 1)


@daft.func.batch(return_dtype=_SMALL_IMAGE, batch_size=_ROWS_AT_ONCE)
def _mirrored(thumbnails: Series) -> list[np.ndarray | None]:
    return _pixels(thumbnails, -1)
