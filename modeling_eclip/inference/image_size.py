"""Image processors set to give images of another size, whatever they call their sizes."""

from typing import Any

import numpy as np

__all__ = ["with_output_size"]


def with_output_size(image_processor: Any, image_size: int | tuple[int, int]) -> Any:
    """Set an image processor so that every image comes out at one size.

    Image processors name their sizes in several ways, and some ignore one of them, so the sizes are tried out on two
    images, a wide and a tall one.

    Args:
        image_processor: The image processor.
        image_size: Side, or height and width, in pixels.

    Returns:
        The same image processor with another `size` and `crop_size`.

    Raises:
        ValueError: it cannot be set so.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size={image_size!r}: give a side, or (height, width), of at least one pixel.")
    from_dict, settings = type(image_processor).from_dict, image_processor.to_dict()
    probes = [np.zeros(shape, np.uint8) for shape in ((2 * height, 3 * width, 3), (3 * height, 2 * width, 3))]
    for sizes in _size_settings(settings, height, width):
        resized = from_dict({**settings, **sizes})
        try:
            shapes = [tuple(pixels.shape[-2:]) for pixels in resized(probes)["pixel_values"]]
        except Exception:  # each image processor refuses in its own way sizes that it does not know
            continue
        if shapes == [(height, width)] * len(probes):
            return resized
    raise ValueError(
        f"image_size={image_size!r}: the {type(image_processor).__name__} cannot be set to give this size. Leave "
        "image_size out, or set up the image processor yourself and give it to EClipProcessor(...)."
    )


def _size_settings(settings: dict[str, Any], height: int, width: int) -> list[dict[str, Any]]:
    """Settings to try, the ones nearest to the image processor's own first."""
    exact = {"height": height, "width": width}
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    if settings.get("do_center_crop") and crop:
        # Resized to more than the crop, then cropped: keep the proportion.
        scale = max(height / crop.get("height", height), width / crop.get("width", width))
        least = {"shortest_edge": max(height, width)} if "shortest_edge" in size else exact
        resized = {side: max(round(size.get(side, pixels) * scale), pixels) for side, pixels in least.items()}
        return [{"size": resized, "crop_size": exact}]
    shortest = [{"size": {"shortest_edge": height}}] if "shortest_edge" in size and height == width else []
    return [*shortest, {"size": exact}]
