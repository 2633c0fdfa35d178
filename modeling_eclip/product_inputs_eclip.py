"""Products as people hand them over -> vectors of the towers, one row per product, whatever sides each of them has.

Contract: a product is a title, a picture, or a mapping `{"text": title, "image": picture}` with either or both. Only
the sides that are there are prepared and encoded; the rows of the others are zero, and `has_text` and `has_image` say
which. Pipelines and sentence-transformers read products through here, so that both understand the same things.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .images_eclip import ProductImageError, load_product_image

_SIDES = ("text", "image")
TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


def read_product(product: Any) -> tuple[str | None, Any]:
    """Tell the title and the picture of a product.

    Args:
        product: A title (`str`), a picture in any form that [`load_product_image`] takes but a `str`, or a mapping
            with `"text"`, `"image"` or both, of which one may be missing: `None` or not a number; a blank title beside
            a picture is missing, too.

    Returns:
        The title and the picture, `None` where there is none.

    Raises:
        ValueError: there is neither, or the mapping has other keys.
    """
    if isinstance(product, str):
        return product, None
    if not isinstance(product, Mapping) or (product and set(product) <= {"bytes", "path"}):
        product = {"image": product}
    unknown = [key for key in product if key not in _SIDES]
    if unknown:
        raise ValueError(
            f"received a product with {unknown}; give {{'text': title, 'image': picture}}, or one of them."
        )
    title, image = (None if _is_missing(product.get(side)) else product[side] for side in _SIDES)
    if isinstance(title, str) and not title.strip() and image is not None:
        title = None
    if title is None and image is None:
        raise ValueError("received a product with neither title nor picture; give it one of them, or leave it out.")
    return title, image


def prepare_products(
    processor: Any, products: Sequence[tuple[str | None, Any]], modality: str = "both"
) -> dict[str, torch.Tensor]:
    """Prepare the sides that products have.

    Args:
        processor: The [`EClipProcessor`] of the checkpoint.
        products: Title and picture of `B` products, as `read_product` tells them.
        modality: The sides to prepare: `"text"`, `"image"` or `"both"`.

    Returns:
        `has_text` and `has_image`, bool, shape `(B,)`; and the model's inputs: of titles, shape `(num_titles, N)`, and
        of images, `(num_images, 3, H, W)`, in the order of the products that have them.

    Raises:
        ProductImageError: a picture cannot be used; the message starts with the product's place in the batch.
    """
    titles = [None if modality == "image" else title for title, _ in products]
    images = [None if modality == "text" else image for _, image in products]
    inputs: dict[str, torch.Tensor] = {
        "has_text": torch.tensor([title is not None for title in titles], dtype=torch.bool),
        "has_image": torch.tensor([image is not None for image in images], dtype=torch.bool),
    }
    if inputs["has_text"].any():
        inputs |= processor(text=[title for title in titles if title is not None], return_tensors="pt")
    if inputs["has_image"].any():
        loaded = []
        for place, image in enumerate(images):
            if image is not None:
                try:
                    loaded.append(load_product_image(image))
                except ProductImageError as error:
                    raise ProductImageError(f"products[{place}]: {error}", error.reason) from error
        inputs |= processor(images=loaded, return_tensors="pt")
    return inputs


def encode_products(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Run the towers on the sides that products have.

    Args:
        model: An [`EClipModel`].
        inputs: What `prepare_products` returned, on the model's device.

    Returns:
        `has_text` and `has_image`, bool, shape `(B,)`; and, where any product has the side, `text_pooler_output` and
        `image_pooler_output`, shape `(B, width)`: the towers' vectors, zero where a product has not the side. All of
        it is what heads take in place of titles and images.
    """
    encoded = {"has_text": inputs["has_text"], "has_image": inputs["has_image"]}
    for side, encode, names in (
        ("text", model.encode_text, TEXT_INPUTS),
        ("image", model.encode_image, IMAGE_INPUTS),
    ):
        given = {name: inputs[name] for name in names if name in inputs}
        if given:
            vectors = encode(**given).pooler_output
            has_side = inputs[f"has_{side}"].to(vectors.device)
            rows = vectors.new_zeros(len(has_side), vectors.shape[1])
            rows[has_side] = vectors
            encoded[f"{side}_pooler_output"] = rows
    return encoded


def _is_missing(value: Any) -> bool:
    """Tell `None`, and the number that tables have where they have nothing."""
    return value is None or (isinstance(value, float) and value != value)


__all__ = ["IMAGE_INPUTS", "TEXT_INPUTS", "encode_products", "prepare_products", "read_product"]
