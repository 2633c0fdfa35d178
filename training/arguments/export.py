"""What `export.py` exports, and how."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.options import option

__all__ = ["ExportArguments"]


@dataclass
class ExportArguments:
    """What is exported, and how."""

    section: ClassVar[str] = "run"

    checkpoint: str = option("e-CLIP checkpoint: Hub id or folder.", "")
    output_dir: str = option("Where the export goes: a folder that is not there yet.", "outputs/export")
    format: Literal["onnx", "openvino", "transformers"] = option(
        "For ONNX Runtime, for OpenVINO, or a stock class of transformers such as CLIPModel.", "openvino"
    )
    part: Literal["text", "image", "both"] = option("The graph of titles, of images, or one of both.", "both")
    precision: Literal["fp32", "int8"] = option("Numbers that it computes with.", "fp32")
    calibration_products: int = option(
        "Products of train_data that int8 takes the ranges of activations from.", 300, advanced=True
    )
    agreement_products: int = option(
        "Products of test_data that the export is compared with PyTorch on.", 1000, advanced=True
    )
    export_batch_size: int = option("Products embedded at a time in the comparison.", 50, advanced=True)

    def __post_init__(self) -> None:
        """Refuse what no export can be made of."""
        if not self.checkpoint:
            raise ValueError("`checkpoint` is empty; name what is exported: a Hub id or a folder.")
        if self.format == "transformers" and (self.part, self.precision) != ("both", "fp32"):
            raise ValueError(
                f"`format` is 'transformers', `part` {self.part!r} and `precision` {self.precision!r}; a stock class "
                "holds both parts in fp32: leave the two out, or give another format."
            )
        for name in ("calibration_products", "agreement_products", "export_batch_size"):
            if getattr(self, name) < 2:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 2.")
