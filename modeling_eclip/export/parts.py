"""A model exported by transformers' own exporters, to ONNX or OpenVINO, in float32 or int8; and what that changes.

What is exported is a part of an `EClipModel`: its titles, its images, or the whole. The graph takes what the processor
makes and gives unit vectors: `text_embeds` of shape `(num_titles, projection_dim)`, `image_embeds` of shape
`(num_images, projection_dim)`, or both, with any number of rows and any length of titles that the tower has room for.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ..modeling_eclip import IMAGE_INPUTS, TEXT_INPUTS, EClipModel
from ..retrieval.ranking import ranking_metrics

if TYPE_CHECKING:
    from transformers.exporters import ExportedModel

__all__ = ["Part", "PartOfModel", "agreement", "embed", "export_part", "inputs_of", "interface_of", "runtime_settings"]

Part = Literal["text", "image", "both"]
Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "int8"]

_EMBEDS = {"text": ("text_embeds",), "image": ("image_embeds",), "both": ("text_embeds", "image_embeds")}
_INPUTS = {"text": TEXT_INPUTS, "image": IMAGE_INPUTS, "both": TEXT_INPUTS + IMAGE_INPUTS}


# OpenVINO computes in bfloat16 of its own accord on CPUs that can. The exporters write the hint into the graph's file,
# from where OpenVINO does not take it (2026.4): it must be given to whatever compiles the graph.
_RUNTIME_SETTINGS: dict[str, dict[str, str]] = {"onnx": {}, "openvino": {"INFERENCE_PRECISION_HINT": "f32"}}


def runtime_settings(format: Format) -> dict[str, str]:
    """Return the settings with which every machine computes a graph alike, in float32 where it is not in int8.

    Args:
        format: `"onnx"` or `"openvino"`.

    Returns:
        For `openvino.Core().compile_model`, or, as `config=`, for `ExportedModel.from_pretrained`; nothing for ONNX
        Runtime, which does so by itself.
    """
    return dict(_RUNTIME_SETTINGS[format])


class PartOfModel(nn.Module):
    """The titles, the images, or the whole of a model as a graph of its own: inputs in, unit vectors out.

    Args:
        model: The model.
        part: `"text"`, `"image"` or `"both"`.
    """

    def __init__(self, model: EClipModel, part: Part) -> None:
        """Keeps the model."""
        super().__init__()
        self.model = model
        self.config = model.config
        self.embeds = _EMBEDS[part]

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Embed; a plain dictionary, so that what reads the export needs none of this package's classes."""
        output = self.model(**inputs)
        return {name: output[name] for name in self.embeds}


def inputs_of(batch: Mapping[str, Any], part: Part) -> dict[str, torch.Tensor]:
    """Return those of a batch's (or a processor's) tensors that a part takes."""
    return {name: batch[name] for name in _INPUTS[part] if name in batch}


def _missing_packages(format: Format, precision: Precision) -> list[str]:
    """Return which packages an export needs that are not installed."""
    needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["openvino"]}[format]
    if precision == "int8":
        needed = [*needed, "nncf"]
    return [name for name in needed if importlib.util.find_spec(name) is None]


def export_part(
    model: EClipModel,
    part: Part,
    format: Format,
    sample: Mapping[str, torch.Tensor],
    *,
    calibration: Sequence[Mapping[str, torch.Tensor]] = (),
) -> "ExportedModel":
    """Export a part of a model.

    Args:
        model: The model; it is put into evaluation mode.
        part: `"text"`, `"image"` or `"both"`.
        format: `"onnx"` or `"openvino"`.
        sample: Inputs of two rows or more, as the processor makes them; only their names and the size of the images
            stay in the graph.
        calibration: Inputs of real products, a few hundred rows in all: with them the graph computes in int8, without
            in float32.

    Returns:
        The export: `save_pretrained`, and called with inputs it returns the embeddings, computed with
        [`runtime_settings`]. What loads it elsewhere must give these settings itself.

    Raises:
        ImportError: a package is missing.
        ValueError: the part or the format is unknown, an input is missing, or the tower can't be exported.
    """
    for name, value, known in (("part", part, _EMBEDS), ("format", format, ("onnx", "openvino"))):
        if value not in known:
            raise ValueError(f"`{name}` is {value!r}; give one of {', '.join(known)}.")
    if missing := _missing_packages(format, "int8" if calibration else "fp32"):
        raise ImportError(
            f"an export to {format} needs {', '.join(missing)}: pip install 'modeling-eclip[export]', from a clone "
            "pip install -e '.[export]'."
        )
    inputs = inputs_of(sample, part)
    for modality, name in (("text", "input_ids"), ("image", "pixel_values")):
        if part in (modality, "both") and name not in inputs:
            raise ValueError(f"`sample` has no {name!r}, which part {part!r} takes; it has {sorted(sample)}.")
        if name in inputs and len(inputs[name]) < 2:
            raise ValueError(
                f"`sample` has {len(inputs[name])} row of {name!r}; give 2, or their number would be fixed."
            )
    exporter = _exporter(format)
    config = exporter.config_class(dynamic_shapes=_dynamic_shapes(model, inputs))
    try:
        exported = exporter.export(PartOfModel(model, part).eval(), dict(inputs), config)
        if calibration:
            quantizer = _quantizer(format, exported.program, [inputs_of(rows, part) for rows in calibration])
            component = exported.components["model"]
            component.program = quantizer.quantize(component.program, inputs, exported.export_format)
        if settings := runtime_settings(format):
            exported.to(config=settings)
    except Exception as error:  # torch, the exporters and nncf raise errors of many classes
        towers: dict[str, Any] = {"text": model.config.text_config, "image": model.config.vision_config}
        names = ", ".join(
            f"{modality} tower {tower.model_type!r}"
            for modality, tower in towers.items()
            if part in (modality, "both")
        )
        raise ValueError(
            f"part {part!r} ({names}) can't be exported to {format}: {type(error).__name__}: {str(error)[:500]}. Try "
            "the other format, or another tower."
        ) from error
    return exported


def _exporter(format: Format) -> Any:
    # Imported where it is asked for: either needs its own packages.
    if format == "onnx":
        from transformers.exporters.exporter_onnx import OnnxExporter

        return OnnxExporter()
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    return OpenVINOExporter()


def _dynamic_shapes(model: EClipModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, dict[int, Any]]:
    """Which dimensions may vary, by the name that the graph gives them."""
    dim = torch.export.Dim
    # torch wants to know how far: a tower reads no further than its position embeddings.
    room = getattr(model.config.text_config, "max_position_embeddings", None)
    num_titles, num_images = dim("num_titles"), dim("num_images")
    length = dim("length", min=2, max=room)
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in inputs.items():
        if name in TEXT_INPUTS:
            shapes[name] = {0: num_titles, 1: length}
        elif value.ndim == 4 or name == "spatial_shapes":
            shapes[name] = {0: num_images}
        else:
            shapes[name] = {0: num_images, 1: dim("num_patches", min=2)}
    return shapes


def _quantizer(format: Format, program: Any, calibration: list[dict[str, torch.Tensor]]) -> Any:
    """How a graph is brought to int8: weights by channel, activations by ranges found on the calibration data."""
    import nncf
    from transformers.exporters import NNCFOnnxQuantizer, NNCFOpenVINOQuantizer, NNCFQuantizationConfig

    names = _float_convolutions(format, program)
    config = NNCFQuantizationConfig(
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=names) if names else None,
    )
    return {"onnx": NNCFOnnxQuantizer, "openvino": NNCFOpenVINOQuantizer}[format](config, calibration)


def _float_convolutions(format: Format, program: Any) -> list[str]:
    """Names of the convolutions that stay in float32: the one that reads the images, and those with groups.

    They are a small part of the work and, with few weights for each output, most of the error.
    """
    if format == "onnx":
        convolutions = [
            (node.name, "group" in node.attributes and node.attributes["group"].as_int() > 1)
            for node in program.graph
            if node.op_type == "Conv"
        ]
    else:
        convolutions = [
            (node.get_friendly_name(), node.get_type_name() == "GroupConvolution")
            for node in program.get_ordered_ops()
            if node.get_type_name() in ("Convolution", "GroupConvolution")
        ]
    return [name for place, (name, has_groups) in enumerate(convolutions) if place == 0 or has_groups]


def interface_of(exported: "ExportedModel") -> dict[str, Any]:
    """Return the graph's `inputs` and `outputs`, each `{name: {"shape", "dtype"}}`; a text in a shape may vary."""
    program = exported.program
    if exported.export_format == "onnx":
        graph = program.graph
        return {
            "inputs": {value.name: _describe(value.shape, value.dtype.name) for value in graph.inputs},
            "outputs": {value.name: _describe(value.shape, value.dtype.name) for value in graph.outputs},
        }
    return {
        kind: {port.any_name: _describe(port.partial_shape, port.element_type.get_type_name()) for port in ports}
        for kind, ports in (("inputs", program.inputs), ("outputs", program.outputs))
    }


def _describe(shape: Any, dtype: str) -> dict[str, Any]:
    return {
        "shape": [int(str(size)) if str(size).isdecimal() else str(size) for size in shape],
        "dtype": dtype.lower(),
    }


def embed(exported: Callable[..., Any], part: Part, batches: Iterable[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Embed batches with an export.

    Args:
        exported: The export, an `ExportedModel` or a model of transformers.
        part: What it is of.
        batches: Batches as `evaluation_loader` yields them.

    Returns:
        `text_embeds`, `image_embeds` or both, float32 of shape `(N, projection_dim)`.
    """
    parts = [exported(**inputs_of(batch, part)) for batch in batches]
    return {name: torch.cat([one[name] for one in parts]) for name in _EMBEDS[part]}


def agreement(
    exported: Mapping[str, torch.Tensor],
    original: Mapping[str, torch.Tensor],
    groups: Sequence[torch.Tensor] = (),
) -> dict[str, dict[str, float]]:
    """Compare the embeddings of an export with PyTorch's.

    Args:
        exported: `text_embeds`, `image_embeds` or both, each of shape `(N, projection_dim)`.
        original: PyTorch's of the same products.
        groups: Products of one group are each other's labels; see [`ranking_metrics`].

    Returns:
        Per name `max_abs_difference`, `mean_cosine` and `min_cosine`; with PyTorch's embeddings of the other modality,
        too, under `"retrieval"` the `recall@10` of the image for a title, PyTorch's `original_recall@10`, and
        `recall@10_loss`, their difference.
    """
    metrics = {}
    for name, embeds in exported.items():
        cosines = nn.functional.cosine_similarity(embeds.double(), original[name].double(), dim=-1)
        metrics[name] = {
            "max_abs_difference": (embeds - original[name]).abs().max().item(),
            "mean_cosine": cosines.mean().item(),
            "min_cosine": cosines.min().item(),
        }
    if {"text_embeds", "image_embeds"} <= original.keys():
        sources = {"original": original, "exported": {**original, **exported}}
        recall = {
            name: ranking_metrics(embeds["text_embeds"], embeds["image_embeds"], groups, ranks=(10,))["recall@10"]
            for name, embeds in sources.items()
        }
        metrics["retrieval"] = {
            "recall@10": recall["exported"],
            "original_recall@10": recall["original"],
            "recall@10_loss": recall["original"] - recall["exported"],
        }
    return metrics
