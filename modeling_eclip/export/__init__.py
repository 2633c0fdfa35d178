"""Parts of a model (titles, images, or both) as ONNX or OpenVINO graphs, in float32 or int8.

`export_part` exports by transformers' own exporters, `interface_of` describes a graph's inputs and outputs, `embed`
runs it, and `agreement` compares its embeddings with PyTorch's. The exporters are imported when they are needed; where
one is missing, the error names `pip install "modeling-eclip[export]"`.
"""

from .parts import PartOfModel, agreement, embed, export_part, inputs_of, interface_of

__all__ = ["PartOfModel", "agreement", "embed", "export_part", "inputs_of", "interface_of"]
