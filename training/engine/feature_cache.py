"""Frozen towers encode each offer once: their vectors are kept on disk and read in place of images or titles.

For locked-image tuning (LiT, Zhai et al. 2022) and its mirror image. The vectors are those of evaluation: of whole
images and titles as they are, without augmentation and dropout. They are kept by what they depend on (the tower's
weights, the processor, the titles or the table of the images, the number format), so that a second run finds them, and
in pieces, so that ranks share the work and a run that is stopped goes on. A piece knows the states of the image files
that its vectors are of: one of files that have changed, and one that is broken, is made anew.
"""

import hashlib
import inspect
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.hub.checkpoint_files import is_finite
from modeling_eclip.inference.embed import batch_size_for
from training.data.catalog_ids import NO_CATALOG
from training.data.collator import ProductCollator
from training.data.digests import add_processor, add_settings, add_weights
from training.data.fields import field_columns
from training.data.files import whole_file
from training.data.images import image_state, images_digest, images_state
from training.data.inputs import model_inputs
from training.data.loaders import batch_loader, with_progress
from training.data.pairs import ProductPairs
from training.data.read_tables import Products

logger = logging.getLogger(__name__)

_ROWS_IN_A_PIECE = 16384
_IMAGES = b"eclip_images"  # metadata of a piece: digest of the states of the image files that it is of
_TOWERS = {"image": "vision_model", "text": "text_model"}


def cache_frozen_towers(
    products: Products | ProductPairs,
    model: EClipModel,
    processor: EClipProcessor,
    accelerator: Accelerator,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    cache_dir: Path | None = None,
    modalities: Sequence[str] = ("image", "text"),
) -> datasets.Dataset | ProductPairs:
    """Give offers the vectors of the frozen towers as columns; all ranks call this together.

    Args:
        products: Map-style offers with the canonical columns, or pairs of them.
        model: The model. A tower of which no parameter is trained is frozen. It is moved to the accelerator's device.
        processor: The model's processor.
        accelerator: The process's accelerator.
        batch_size: Offers encoded at a time; as many as are fast on the device if not given.
        num_workers: Processes that decode images, per rank.
        cache_dir: Where the vectors are kept; a folder in the cache of `datasets` if not given.
        modalities: The modalities whose vectors are needed.

    Returns:
        The offers, or the pairs of them, with `image_pooler_output`, `text_pooler_output` or both: the tower's vector
        before the projection, float32, of the tower's width; null where the image can't be decoded or the title is
        empty.

    Raises:
        ValueError: the offers are a stream, no tower is frozen, or there are several texts or images for one that is.
    """
    if isinstance(products, ProductPairs):
        offers = cache_frozen_towers(
            products.products,
            model,
            processor,
            accelerator,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_dir=cache_dir,
            modalities=modalities,
        )
        assert isinstance(offers, datasets.Dataset)
        return replace(products, products=offers)
    asked = "`cache_frozen_towers` is true"
    frozen = [
        modality
        for modality, tower in _TOWERS.items()
        if modality in modalities
        and not any(parameter.requires_grad for parameter in getattr(model, tower).parameters())
    ]
    check_kept(products, frozen, asked, or_else=", or train that tower")
    if not frozen:
        raise ValueError(
            f"{asked}, but parameters of both towers are trained; freeze a whole one, as by "
            "`--freeze '^vision_model\\.'`, or leave it out."
        )
    columns = [
        cache_vectors(
            products,
            modality,
            model,
            processor,
            accelerator,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        for modality in frozen
    ]
    return datasets.concatenate_datasets([products, *columns], axis=1)


def check_kept(products: Any, modalities: Sequence[str], asked: str, or_else: str = "") -> None:
    """Refuse offers of which no vectors can be kept, each once and for all visits.

    Args:
        products: Offers with the canonical columns.
        modalities: The modalities whose vectors are to be kept.
        asked: The option that asks for them, and its value, for the error.
        or_else: A further remedy where an offer has several texts or images.

    Raises:
        ValueError: the offers are a stream, or one visit draws another of their texts or images than the next.
    """
    if not isinstance(products, datasets.Dataset):
        raise ValueError(f"{asked}, but streamed offers pass once and are not kept; leave out `streaming`.")
    for modality in modalities:
        if field_columns(products.column_names, modality):
            raise ValueError(
                f"{asked}, and `{modality}_columns` names several of which each visit draws one; leave out one of "
                f"the two{or_else}."
            )


def cache_vectors(
    products: datasets.Dataset,
    modality: str,
    model: EClipModel,
    processor: EClipProcessor,
    accelerator: Accelerator,
    *,
    batch_size: int | None = None,
    num_workers: int = 0,
    cache_dir: Path | None = None,
    whose: str = "the frozen {modality} tower",
) -> datasets.Dataset:
    """Encode the titles or the images of offers with a model's tower, or find what it has encoded before.

    All ranks call this together.

    Args:
        products: Map-style offers with the canonical columns.
        modality: `"text"` or `"image"`.
        model: The model. It is moved to the accelerator's device.
        processor: The model's processor.
        accelerator: The process's accelerator.
        batch_size: Offers encoded at a time; as many as are fast on the device if not given.
        num_workers: Processes that decode images, per rank.
        cache_dir: Where the vectors are kept; a folder in the cache of `datasets` if not given.
        whose: Whose vectors the log says that they are.

    Returns:
        A column, `image_pooler_output` or `text_pooler_output`, with a row for each offer: of several texts that of
        the joined one, of several images that of the first.
    """
    cache_dir = cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "frozen_towers"
    # Here, so that the model is the same where no vector is missing. Convolutions on CPUs are 1.5 times as fast so.
    model.to(accelerator.device, memory_format=torch.channels_last)
    # Titles are quickly read and tell their vectors; of images the table's own account has to do.
    table = [products._fingerprint] if modality == "image" else []
    key = _digest(model, modality, processor, [*table, str(accelerator.mixed_precision)])
    folder = cache_dir / f"{modality}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[tuple[Path, range, str]] = []
    for start in range(0, len(products), _ROWS_IN_A_PIECE):
        rows = range(start, min(start + _ROWS_IN_A_PIECE, len(products)))
        if modality == "image":
            name, images = str(start), _images_digest(products, rows)
        else:
            name, images = _titles_digest(products, rows), ""
        pieces.append((folder / f"{name}.arrow", rows, images))
    missing = {path: (rows, images) for path, rows, images in pieces if not _is_whole(path, len(rows), images)}
    logger.info(
        "%s encodes %s of %s offers, without augmentation; their vectors are kept in %s",
        whose.format(modality=modality),
        sum(len(rows) for rows, _ in missing.values()),
        len(products),
        folder,
    )
    columns = ["title"] if modality == "text" else ["image", *field_columns(products.column_names, "image")]
    accelerator.wait_for_everyone()  # every rank has the same list before any adds to it
    mine = list(missing.items())[accelerator.process_index :: accelerator.num_processes]
    for path, (rows, images) in mine:
        order = _by_length(products, rows) if modality == "text" else list(rows)
        batches = batch_loader(
            products.select(order).select_columns(columns),
            num_workers,
            pin_memory=False,
            batch_size=batch_size or batch_size_for(accelerator.device),
            collate_fn=_Collator(modality, processor, model),
        )
        progress = with_progress(batches, f"encoding {modality}s", disable=not accelerator.is_local_main_process)
        vectors = dict(zip(order, _encode(modality, progress, model, accelerator, order), strict=True))
        _write(path, f"{modality}_pooler_output", [vectors[row] for row in rows], images)
    accelerator.wait_for_everyone()
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path, _, _ in pieces])


class _Collator:
    """Makes the inputs of one tower from rows; tells which rows they are of."""

    def __init__(self, modality: str, processor: EClipProcessor, model: EClipModel) -> None:
        self.modality = modality
        self.processor = processor
        self.names = set(inspect.signature(getattr(model, f"encode_{modality}")).parameters)
        self.collator = ProductCollator(processor, own_catalog_for_singles=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> tuple[int, list[int], dict[str, Any]]:
        """Return the number of rows, the places of the usable ones, and their inputs."""
        if self.modality == "text":
            titles = [(row["title"] or "").strip() for row in rows]
            usable = [place for place, title in enumerate(titles) if title]
            batch = self.processor(text=[titles[place] for place in usable], return_tensors="pt") if usable else {}
        else:
            # Images as in evaluation, where every row has a title; the row ids are the places.
            placeholder = {"title": "none", "catalog_id": NO_CATALOG}
            named = [{**row, **placeholder, "row_id": str(place)} for place, row in enumerate(rows)]
            batch = self.collator(named, range(len(rows)))
            usable = [int(row_id) for row_id in batch["row_ids"]]
        names = {*self.names, "normalization"}
        return len(rows), usable, {name: value for name, value in batch.items() if name in names}


@torch.no_grad()
def _encode(modality: str, batches: Any, model: EClipModel, accelerator: Accelerator, rows: list[int]) -> list[Any]:
    """Return one vector per row, or `None` for a row that can't be used; raise FloatingPointError for one of NaN."""
    encode = getattr(model, f"encode_{modality}")
    was_training = model.training
    model.eval()
    vectors: list[Any] = []
    for num_rows, usable, inputs in batches:
        found = [None] * num_rows
        if usable:
            with accelerator.autocast():
                output = encode(**model_inputs(inputs, accelerator.device))
            encoded = output.pooler_output.float().cpu()
            if not is_finite(encoded):
                row = rows[len(vectors) + next(p for p, v in zip(usable, encoded, strict=True) if not is_finite(v))]
                raise FloatingPointError(
                    f"the frozen tower gives a vector of the {modality} in row {row} that is not finite, and nothing "
                    "is kept of these rows; use `--mixed_precision no`, or a model whose training went well."
                )
            for place, vector in zip(usable, encoded.numpy(), strict=True):
                found[place] = vector
        vectors += found
    model.train(was_training)
    return vectors


def _titles(products: datasets.Dataset, rows: range) -> list[str | None]:
    return products.select_columns("title").select(rows)["title"][:]


def _by_length(products: datasets.Dataset, rows: range) -> list[int]:
    """Order rows by the lengths of their titles, so that little of a batch is padding."""
    titles = _titles(products, rows)
    return sorted(rows, key=lambda row: len(titles[row - rows.start] or ""))


def _titles_digest(products: datasets.Dataset, rows: range) -> str:
    """Return a name for the titles of rows, in their order."""
    return hashlib.sha256(json.dumps(_titles(products, rows)).encode()).hexdigest()[:20]


def _images_digest(products: datasets.Dataset, rows: range) -> str:
    """Return a digest of the states of the image files of rows; images in the rows are told by the table."""
    if several := field_columns(products.column_names, "image"):
        return images_digest(images_state(row) for row in products.select_columns(["image", *several]).select(rows))
    images = products.select_columns("image").select(rows).with_format("arrow")[:]["image"].combine_chunks()
    paths = pc.if_else(pc.is_null(images.field("bytes")), images.field("path"), None)  # without a copy of the bytes
    return images_digest(image_state({"path": path}) for path in paths.to_pylist())


def _is_whole(path: Path, num_rows: int, images: str) -> bool:
    """Tell whether a piece is there, can be read to its end, and is of image files as they are now."""
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if len(table) == num_rows:
            return (table.schema.metadata or {}).get(_IMAGES) == images.encode()
        error = f"it has {len(table)} rows of {num_rows}"
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException) as found:
        error = str(found)
    logger.warning("%s is broken and made anew: %s", path, error)
    return False


def _write(path: Path, column: str, vectors: list[Any], images: str) -> None:
    table = pa.table({column: pa.array(vectors, pa.list_(pa.float32()))}).replace_schema_metadata({_IMAGES: images})
    with (
        whole_file(path, f".{os.getpid()}.partial") as partial,
        pa.ipc.new_stream(str(partial), table.schema) as writer,
    ):
        writer.write_table(table)


def _digest(model: EClipModel, modality: str, processor: EClipProcessor, others: Sequence[str]) -> str:
    """Return a name for everything that the vectors of a tower depend on."""
    digest = hashlib.sha256()
    pooling = model.config.vision_pooling if modality == "image" else model.config.text_pooling
    tower = getattr(model, _TOWERS[modality])
    for text in (*others, pooling):
        digest.update(f"{text}\0".encode())
    add_settings(digest, "config", tower.config.to_dict())
    add_weights(digest, tower)
    add_processor(digest, processor)
    return digest.hexdigest()[:20]


__all__ = ["cache_frozen_towers", "cache_vectors", "check_kept"]
