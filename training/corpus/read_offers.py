"""Read the offers of a part: clean each title and examine each image. Offers are not compared here.

A part of the input becomes a folder of parquet files, which hold the offers and the values that later steps compare
them by. Later steps read only the columns that they need; images are read once more, when shards are written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import daft
import daft.functions as F
import numpy as np
from daft import DataType, Expression, Series, col
from daft.context import execution_config_ctx

from training.corpus.fetch_images import image_bytes
from training.corpus.image_facts import THUMBNAIL_SIDE, ImageLimits
from training.corpus.offer_facts import FACTS, RawOffer, describe_offers
from training.corpus.options import PrepareArguments
from training.corpus.plan_parts import Part
from training.corpus.sandbox import in_process
from training.corpus.title_rules import TitleRule
from training.data.columns import catalog_numbers
from training.data.files import whole_folder

__all__ = ["OWN", "has_number_ids", "part_name", "part_of", "prepare_part", "read_rows"]

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

    Args:
        number: The part's number.
        part: The part.
        folder: Folder of the parts.
        arguments: Names of columns, and limits.
        rules: Rules that clean titles.

    Raises:
        ValueError: a column is missing.
    """
    done = folder / part_name(number)
    if done.is_dir():
        return
    with whole_folder(done) as partial, execution_config_ctx(**_SMALL_STEPS):
        _frame(number, part, arguments, rules).write_parquet(str(partial), write_mode="append")


def read_rows(folder: Path, number: int | None = None) -> daft.DataFrame:
    """Return the offers of one part, or of all parts."""
    name = "part-*" if number is None else part_name(number)
    return daft.read_parquet(str(folder / name / "*.parquet"))


def has_number_ids(folder: Path) -> bool:
    """Tell whether every id is a whole number, written as text without leading zeros or a plus sign."""
    ids = read_rows(folder).select(col("id").cast(DataType.string()).alias("id"))
    numbers = ids.where(col("id").regexp(r"^(0|-?[1-9][0-9]{0,17})$")).count_rows()
    return numbers == ids.count_rows()


def part_name(number: int) -> str:
    """Return the name of a part's folders and files."""
    return f"part-{number:05d}"


def part_of(rows: np.ndarray) -> np.ndarray:
    """Return the part of each row number, shape `(N,)`."""
    return (rows >> np.uint64(48)).astype(np.int64)


def _frame(number: int, part: Part, arguments: PrepareArguments, rules: Sequence[TitleRule]) -> daft.DataFrame:
    mapped = [arguments.title_column, arguments.image_column, arguments.id_column, arguments.catalog_id_column]
    offers = part.read(mapped)
    names = offers.column_names
    for field in ("title_column", "image_column", "id_column", "catalog_id_column", "category_column"):
        name = getattr(arguments, field)
        if name and name not in names and name != _MAY_LACK.get(field):
            raise ValueError(
                f"`{field}` is {name!r}, a column that {part.paths[0]} has not; it has {', '.join(sorted(names))}."
            )
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
        "id": col(arguments.id_column) if arguments.id_column else facts["content"],
        **facts,
        "title_original": title,
        "image": col("_image")["bytes"],
    }
    for name, pixels in (("image_hash", _upright), ("mirrored_hash", _mirrored)):
        canonical[name] = F.image_hash(pixels(col("_facts")["thumbnail"])).cast(DataType.binary())
    own = [col(name).alias(OWN + name) for name in names if name not in mapped]
    return offers.select(*[value.alias(name) for name, value in canonical.items()], *own)


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
