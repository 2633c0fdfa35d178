"""A checkpoint becomes a graph, or a stock class of transformers, compared with PyTorch on products."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor
from transformers.exporters import ExportedModel

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export.parts import Part, agreement, embed, export_part, inputs_of, interface_of, runtime_settings
from modeling_eclip.export.stock import save_stock, stock_model, stock_processor
from training.arguments.data import DataArguments
from training.arguments.export import ExportArguments
from training.data.catalog_ids import stable_id
from training.data.files import whole_folder, write_json
from training.data.inputs import model_inputs
from training.data.loaders import evaluation_loader, with_progress
from training.data.row_places import row_files
from training.data.skipped_rows import SkipCounter
from training.engine.adapter_files import load_eclip
from training.engine.build import load_split
from training.engine.nonfinite import check_weights

logger = logging.getLogger("training")

# Few enough that ranges are of many batches, and that the memory of int8's search stays small.
_CALIBRATION_BATCH = 10


def check_columns(part: Part, data: DataArguments) -> None:
    """Refuse to export a modality that the test data lacks: the export is compared with PyTorch on it.

    Args:
        part: What is exported.
        data: The data arguments.

    Raises:
        ValueError: a modality of the part has no column.
    """
    for name, other in (("title", "image"), ("image", "text")):
        field = f"{name}_column"
        if getattr(data, field) == "none" and part in ("both", "text" if name == "title" else name):
            raise ValueError(
                f"`part` is {part!r}, but `{field}` is 'none', and the export is compared with PyTorch on {name}s; "
                f"name their column, or give `--part {other}`."
            )


def read_batches(
    data: DataArguments, split: str, processor: EClipProcessor, part: Part, num_products: int, batch_size: int
) -> list[dict[str, Any]]:
    """Read the first products of a split, both modalities of them where there are both.

    Args:
        data: The data arguments.
        split: `"train"` or `"test"`.
        processor: Turns titles and images into inputs.
        part: What is exported.
        num_products: How many products, unusable ones among them.
        batch_size: Products in a batch.

    Returns:
        Batches as `evaluation_loader` yields them, with their pixels normalised.

    Raises:
        ValueError: too few of them can be used.
    """
    products = load_split(data, split)
    assert isinstance(products, datasets.Dataset)  # only training offers can be streamed, and here are not
    products = products.select(range(min(num_products, len(products))))
    modality = part if "none" in (data.title_column, data.image_column) else None
    loader = evaluation_loader(
        products, processor, batch_size=batch_size, modality=modality, num_workers=data.num_workers
    )
    skips = SkipCounter(row_files(products))
    batches = []
    for batch in with_progress(loader, f"reading {split}"):
        skips.add(batch)
        if batch["row_ids"]:
            batches.append(batch | model_inputs(batch, torch.device("cpu")))
    if skips.num_skipped:
        logger.warning("%s: %s", split, skips.report())
    skips.check(data.max_skipped_share, min_rows=1)
    return batches


def compare(
    exported: Callable[..., Any], model: EClipModel, part: Part, batches: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Compare an export with the model that it is of.

    Args:
        exported: The export, which takes inputs by name and gives embeddings.
        model: The model.
        part: What the export is of.
        batches: Products, as `read_batches` gives them.

    Returns:
        What [`agreement`] found; offers of one catalog, and of equal titles, are each other's labels.
    """
    titles = torch.tensor([stable_id(title) for batch in batches for title in batch["titles"]])
    catalogs = torch.cat([batch["catalog_ids"] for batch in batches])
    modality = part if not set(batches[0]) >= {"input_ids", "pixel_values"} else "both"
    with torch.no_grad():
        ours = embed(exported, part, tqdm(batches, desc="the export", leave=False))
        outputs = [model(**inputs_of(batch, modality)) for batch in tqdm(batches, desc="PyTorch", leave=False)]
    names = [name for name in ("text_embeds", "image_embeds") if outputs[0].get(name) is not None]
    original = {name: torch.cat([output[name] for output in outputs]) for name in names}
    return agreement(ours, original, [catalogs, titles])


def export_checkpoint(arguments: ExportArguments, data: DataArguments) -> None:
    """Export, compare, report; `agreement.json` in the folder says how far the embeddings are from the model's.

    Args:
        arguments: What is exported, and how.
        data: Products of `test_data` are compared; int8 takes the ranges of activations from `train_data`.

    Raises:
        ValueError: The folder is there already, the data lacks a modality or usable products, or no stock class does
            what the model does.
    """
    output_dir = Path(arguments.output_dir)
    if output_dir.exists():
        raise ValueError(f"`output_dir` {output_dir} is there already; give a folder that is not, or remove it.")
    check_columns(arguments.part, data)
    model = load_eclip(arguments.checkpoint).eval()
    check_weights(model, f"not exported ({arguments.checkpoint})")
    processor = EClipProcessor.from_pretrained(arguments.checkpoint)
    # Before products are read: not every model has a stock class.
    wanted = arguments.format
    stock = stock_model(model) if wanted == "transformers" else None
    source = (processor, arguments.part)
    batches = read_batches(data, "test", *source, arguments.agreement_products, arguments.export_batch_size)
    calibration: list[dict[str, Any]] = []
    if arguments.precision == "int8":
        calibration = read_batches(data, "train", *source, arguments.calibration_products, _CALIBRATION_BATCH)
    lost: dict[str, float] = {}
    logger.info("exporting %s to %s in %s", arguments.part, arguments.format, arguments.precision)
    if wanted == "transformers":
        assert stock is not None
        exported: Any = stock
        if model.logit_bias is not None and getattr(stock, "logit_bias", None) is None:
            lost["logit_bias_left_out"] = model.logit_bias.item()
            logger.warning(
                "%s has no place for the `logit_bias` of a sigmoid: add %.4f to its logits before a sigmoid is taken "
                "of them; rankings, a softmax, features and embeddings need none",
                type(stock).__name__,
                model.logit_bias.item(),
            )
    else:
        exported = export_part(model, arguments.part, wanted, batches[0], calibration=calibration)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output_dir) as folder:
        # What is compared is what was saved.
        if wanted == "transformers":
            save_stock(exported, stock_processor(processor, model.config), folder)
            loaded = AutoModel.from_pretrained(folder)
            parts = (loaded, AutoProcessor.from_pretrained(folder))
            described: dict[str, Any] = {"classes": [type(part).__name__ for part in parts]}
        else:
            exported.save_pretrained(folder)
            processor.save_pretrained(folder)
            processor.image_processor.save_pretrained(folder)  # the file that transformers.js reads
            settings = runtime_settings(wanted)
            loaded = ExportedModel.from_pretrained(folder, **({"config": settings} if settings else {}))
            described = {"runtime_settings": settings, **interface_of(loaded)}
        metrics = compare(loaded, model, arguments.part, batches)
        about: dict[str, Any] = {
            name: getattr(arguments, name) for name in ("checkpoint", "part", "format", "precision")
        }
        products = sum(len(batch["row_ids"]) for batch in batches)
        write_json(
            {**about, **lost, **described, "products": products, "agreement": metrics}, folder / "agreement.json"
        )
    logger.info("%s\n%s", json.dumps(metrics, indent=2), f"the export is in {output_dir}")
