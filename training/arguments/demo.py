"""What the demo is made of."""

from dataclasses import dataclass
from typing import ClassVar

from training.arguments.options import option

__all__ = ["DemoArguments"]


@dataclass
class DemoArguments:
    """What the demo is made of, beside its data."""

    section: ClassVar[str] = "run"

    checkpoint: str = option("e-CLIP checkpoint, a folder or a Hub id.", "outputs/quickstart")
    output_dir: str = option("Where it goes; the demo looks here.", "examples/demo/data")
    colour_column: str = option("Column of the colour that products are filtered by.", "colour")
    max_products: int = option("Products to search among, at most.", 5000)
    max_image_size: int = option("Longer side of their images, in pixels, at most.", 320)
