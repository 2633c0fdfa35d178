"""Parts of a model (titles, images, or both) as ONNX or OpenVINO, in float32 or int8, by transformers' exporters."""

from .parts import PartOfModel, agreement, embed, export_part, inputs_of, interface_of

__all__ = ["PartOfModel", "agreement", "embed", "export_part", "inputs_of", "interface_of"]
