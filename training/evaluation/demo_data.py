"""What the demo shows: a copy of a checkpoint, a head for each task, and products to search among."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_eclip import EClipModel, EClipProcessor, ProductImageError, load_product_image
from training.arguments.data import DataArguments
from training.arguments.demo import DemoArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.data.fields import first_image
from training.data.files import as_written, whole_file, whole_folder, write_json
from training.engine.adapter_files import load_eclip
from training.engine.build import load_split
from training.tasks.finetuning import finetune
from training.tasks.registry import TASKS

__all__ = ["build_demo"]

logger = logging.getLogger("training")

_SCHEMA = pa.schema(
    [("id", pa.string()), ("title", pa.string()), ("image", pa.binary()), ("category", pa.string()),
     ("colour", pa.string())]
)  # fmt: skip


def build_demo(data: DataArguments, arguments: DemoArguments) -> None:
    """Write what the demo needs.

    Args:
        data: On which products heads are trained, and which are searched among.
        arguments: What is made of them.

    Raises:
        ValueError: `output_dir` holds what was made of something else, or no product has an image.
    """
    if data.image_column == "none":
        raise ValueError("`image_column` is 'none', but the demo shows images; name their column.")
    output = Path(arguments.output_dir)
    settings = as_written({**asdict(data), **asdict(arguments)})
    model = load_eclip(arguments.checkpoint)
    _check_is_of(output, model, settings)
    has_products = (output / "products.parquet").exists()
    rows = [] if has_products else list(_product_rows(data, arguments))
    if not has_products and not rows:
        raise ValueError(
            f"`test_data` is {data.test_data}, in which no product has a usable image in the column "
            f"{data.image_column!r}; name other products, or another `image_column`, with at least 1 `max_products`."
        )
    write_json(settings, output / "arguments.json")  # by now it is known that something can be made of them
    if not (output / "eclip").exists():
        with whole_folder(output / "eclip") as folder:
            model.save_pretrained(folder)
            EClipProcessor.from_pretrained(arguments.checkpoint).save_pretrained(folder)
    if not has_products:
        with whole_file(output / "products.parquet") as path:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)
    for task in sorted(TASKS):
        folder = output / "heads" / task
        if (folder / "report.json").exists():  # which is written last
            continue
        learned = FinetuneArguments(task=task, method="linear", output_dir=str(folder))
        try:
            finetune(ModelArguments(checkpoint=str(output / "eclip")), data, learned)
        except ValueError as error:
            logger.warning("no head for %s: %s", task, error)


def _check_is_of(output: Path, model: EClipModel, settings: dict[str, Any]) -> None:
    """Refuse a folder that was begun with other arguments or other weights."""
    kept = output / "arguments.json"
    if not kept.exists():
        return
    remedy = "delete it, or give another output_dir."
    others = json.loads(kept.read_text(encoding="utf-8"))
    changed = sorted(name for name in settings.keys() | others.keys() if settings.get(name) != others.get(name))
    if changed:
        raise ValueError(f"`output_dir` {output} was begun with another {', '.join(changed)}; {remedy}")
    if (output / "eclip").exists():
        weights, copied = model.state_dict(), EClipModel.from_pretrained(output / "eclip").state_dict()
        if weights.keys() != copied.keys() or any(not weights[name].equal(copied[name]) for name in weights):
            raise ValueError(f"`checkpoint` has other weights than when `output_dir` {output} was begun; {remedy}")


def _product_rows(data: DataArguments, arguments: DemoArguments) -> Iterator[dict[str, Any]]:
    """Yield the products that can be shown, with small images; count those that can't."""
    products = load_split(data, "test")
    separator = data.category_separator
    skipped = 0
    for number in tqdm(range(min(len(products), arguments.max_products)), desc="products"):
        row = products[number]
        try:
            image = load_product_image(first_image(row))
        except ProductImageError:
            skipped += 1
            continue
        image = image.copy()
        image.thumbnail((arguments.max_image_size, arguments.max_image_size))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=88)
        category = row.get(data.category_column) or []
        path = category.split(separator) if isinstance(category, str) else category
        colour = row.get(arguments.colour_column)
        yield {
            "id": row["row_id"],
            "title": row["title"],
            "image": file.getvalue(),
            "category": " > ".join(level.strip() for level in path) or None,
            "colour": None if colour is None else str(colour),
        }
    if skipped:
        logger.warning("%s products without a usable image are left out", skipped)
