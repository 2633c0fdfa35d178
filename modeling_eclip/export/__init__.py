"""Parts of a model as ONNX or OpenVINO graphs, in float32 or int8; the whole as a stock class of transformers.

`export_part` exports titles, images, or both by transformers' own exporters, `interface_of` describes a graph's inputs
and outputs, `embed` runs it, and `agreement` compares its embeddings with PyTorch's. The exporters are imported when
they are needed; where one is missing, the error names `pip install "modeling-eclip[export]"`. `stock_model` and
`stock_processor` make a `CLIPModel` and its like, which load without this package; `save_stock` saves both.
"""

from .parts import PartOfModel, agreement, embed, export_part, inputs_of, interface_of
from .stock import save_stock, stock_model, stock_processor

__all__ = [
    "PartOfModel",
    "agreement",
    "embed",
    "export_part",
    "inputs_of",
    "interface_of",
    "save_stock",
    "stock_model",
    "stock_processor",
]
