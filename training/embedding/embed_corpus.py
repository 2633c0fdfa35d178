"""A run that embeds a corpus: its arguments, its devices or machines, and its report."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments.embed import EmbedArguments
from training.arguments.sources import parse_fields
from training.data.columns import ProductColumns
from training.data.digests import config_digest, processor_digest, weights_digest
from training.data.files import files_digest, write_json
from training.data.once import loaded_once
from training.data.open_sources import source_files
from training.data.read_tables import load_products
from training.data.row_places import row_files
from training.embedding.embedder import CorpusEmbedder
from training.embedding.vector_shards import EmbeddedShards
from training.engine.adapter_files import load_eclip
from training.engine.nonfinite import check_weights
from training.engine.precision import precision_of_device
from training.engine.setup import only_run_in, open_accelerator

__all__ = ["embed_corpus"]

logger = logging.getLogger("training")

# By the mixed precision of a training on the same device.
_DTYPES: dict[str, Literal["float32", "float16", "bfloat16"]] = {
    "no": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
_LONGEST_WAIT = timedelta(days=30)  # of a finished rank for the others


def embed_corpus(arguments: EmbedArguments) -> dict[str, Any]:
    """Embed the products; all processes that were launched call this together.

    Args:
        arguments: The arguments of the run.

    Returns:
        The content of `report.json`: the number of rows, the dimension, and for each modality the rows that could not
        be embedded, by reason. An empty dictionary on every rank but the first.

    Raises:
        ValueError: the folder was begun with other settings, another run is at work there, or too many rows could not
            be used.
    """
    accelerator = open_accelerator(longest_wait=_LONGEST_WAIT)
    with only_run_in(Path(arguments.output_dir), "output_dir"):
        return _embed(arguments, accelerator)


def _embed(arguments: EmbedArguments, accelerator: Accelerator) -> dict[str, Any]:
    if arguments.dtype == "auto":  # decided here, so that every process and every machine of a cluster does the same
        arguments = replace(arguments, dtype=_DTYPES[precision_of_device(accelerator.device)])
    if accelerator.is_main_process:
        logger.info("embedding on %s in %s", accelerator.device.type, arguments.dtype)
    embedder = _open_embedder(arguments, _load_model(arguments).to(accelerator.device))
    shards = _shards(arguments, embedder)
    if accelerator.is_main_process:
        shards.begin(_settings(arguments, embedder))
        shards.remove_old(embedder.products)
    accelerator.wait_for_everyone()
    missing = shards.missing()
    accelerator.wait_for_everyone()  # all ranks list the files before any rank adds one
    if len(missing) < len(shards) and accelerator.is_main_process:
        logger.info("%s of %s files are already written", len(shards) - len(missing), len(shards))
    waiting = 0.0
    if arguments.engine == "ray":
        _embed_on_ray(arguments, missing)
    else:
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        waiting = embedder(shards, mine, show_progress=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}
    skipped = shards.skipped(row_files(embedder.products))
    for counter in skipped.values():  # of all files, those of earlier runs included
        counter.check(arguments.max_skipped_share, min_rows=1)
    report = {
        "rows": shards.num_rows,
        "files": len(shards),
        "dim": embedder.dim,
        "dtype": arguments.dtype,
        "logit_scale": embedder.model.logit_scale.exp().item(),
        "skipped": {modality: dict(counter.reasons) for modality, counter in skipped.items()},
        "passed_over": {modality: dict(counter.passed_over) for modality, counter in skipped.items()},
        "examples": {modality: counter.told_rows() for modality, counter in skipped.items()},
        "waiting_share": round(waiting, 3),
    }
    for modality, counter in skipped.items():
        logger.info("%s: %s", modality, counter.report())
    write_json(report, shards.folder / "report.json")
    return report


def _settings(arguments: EmbedArguments, embedder: CorpusEmbedder) -> dict[str, Any]:
    """Return what the files depend on: not batches, workers or devices, which change neither order nor values."""
    names = ("input", "split", "title_column", "image_column", "text_columns", "image_columns", "field_pooling",
             "catalog_id_column", "id_column", "modality", "encoding", "truncate_dim", "dtype")  # fmt: skip
    return {name: getattr(arguments, name) for name in names} | {
        "input_files": [files_digest(source_files(source, arguments.split)) for source in arguments.input],
        "model": weights_digest(embedder.model),
        "config": config_digest(embedder.model.config),
        "processor": processor_digest(embedder.processor),
    }


def _shards(arguments: EmbedArguments, embedder: CorpusEmbedder) -> EmbeddedShards:
    return EmbeddedShards(Path(arguments.output_dir), len(embedder.products), arguments.rows_per_shard)


def _key(arguments: EmbedArguments) -> tuple[tuple[str, Any], ...]:
    """Return the arguments as a key that can be hashed."""
    content = asdict(arguments).items()
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in content)


@loaded_once  # a process of a cluster embeds many files, in several threads
def _embedders(key: tuple[tuple[str, Any], ...]) -> list[CorpusEmbedder]:
    """Return an embedder for each device of this process: all at once, since nothing may load while another embeds."""
    given: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in key}
    arguments = EmbedArguments(**given)
    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    model = _load_model(arguments)
    return [_open_embedder(arguments, copy.deepcopy(model).to(device)) for device in devices]


def _load_model(arguments: EmbedArguments) -> EClipModel:
    model = load_eclip(arguments.checkpoint, dtype=getattr(torch, arguments.dtype)).eval()
    check_weights(model, f"not used to embed ({arguments.checkpoint})")
    # Convolutions on CPUs are half as fast again this way, and nothing is slower.
    return model.to(memory_format=torch.channels_last)


def _fields(arguments: EmbedArguments, processor: EClipProcessor) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of titles and of images, and which of the two are those that the model was trained with."""
    chosen: dict[str, Any] = {}
    of_checkpoint = []
    for field, kind, other in (("title", "text", "image"), ("image", "image", "text")):
        column, name = getattr(arguments, f"{field}_column"), f"{kind}_columns"
        given = parse_fields(name, getattr(arguments, name))
        trained = dict((processor.fields or {}).get(kind, []))
        if arguments.modality == other:
            chosen[field] = "none"
        elif trained and given is None and column == field:
            logger.info("`%s` are those that the checkpoint was trained with: %s", name, ", ".join(trained))
            chosen[field] = trained
            of_checkpoint.append(field)
        else:
            chosen[field] = given or column
    return chosen, of_checkpoint


def _open_embedder(arguments: EmbedArguments, model: EClipModel) -> CorpusEmbedder:
    processor = EClipProcessor.from_pretrained(arguments.checkpoint)
    chosen, of_checkpoint = _fields(arguments, processor)
    columns = ProductColumns(**chosen, catalog_id=tuple(arguments.catalog_id_column), row_id=arguments.id_column)
    return CorpusEmbedder(
        load_products(
            arguments.input,
            columns,
            split=arguments.split,
            streaming=arguments.streaming,
            encoding=arguments.encoding,
            may_lack=of_checkpoint,
        ),
        model,
        processor,
        modality=arguments.modality,
        truncate_dim=arguments.truncate_dim,
        token_budget=arguments.token_budget,
        image_batch_size=arguments.image_batch_size,
        num_workers=arguments.num_workers,
        max_skipped_share=arguments.max_skipped_share,
        field_pooling=arguments.field_pooling,
    )


def _embed_on_ray(arguments: EmbedArguments, missing: Sequence[int]) -> None:
    """Embed files on a cluster, whose machines all see the sources, the checkpoint and the output folder."""
    from training.data.parallel import for_each, use_engine

    use_engine("ray")
    key = _key(arguments)

    def embed(number: int) -> None:
        embedders = _embedders(key)
        embedder = embedders[number % len(embedders)]
        shards = _shards(arguments, embedder)
        if not shards.path(number).is_file():
            embedder(shards, [number], show_progress=False)

    for_each(embed, missing)
