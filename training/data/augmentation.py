"""Augmentation for products: crops that keep the product, unchanged colours, titles with words left out or moved.

Pure functions of the image or title and of the state of a random generator, so that a row is augmented in the same way
by every worker and rank. Evaluation does not augment.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from modeling_eclip.inference.fields import FIELD_SEPARATOR
from modeling_eclip.inference.resizing import resize_pixels

__all__ = ["ImageView", "ProductAugmentation", "TitleAugmentation"]


@dataclass(frozen=True)
class ImageView:
    """One view of an image of any size, drawn before the image is decoded.

    Args:
        box: The crop `(left, upper, right, lower)`, in shares of the image's width and height.
        is_mirrored: Whether left and right are swapped.
        colour_factors: What brightness, contrast and saturation are multiplied by; empty to leave them alone.
    """

    box: tuple[float, float, float, float]
    is_mirrored: bool = False
    colour_factors: tuple[float, ...] = ()


class ProductAugmentation:
    """Random resized crop, horizontal flip and, if asked for, a change of brightness, contrast and saturation.

    The crop covers a share of the image's area drawn from `[min_crop_scale, 1]`; its aspect ratio is that of the
    image times a factor within 3/4 and 4/3, so crops of tall and wide images stay tall and wide. The hue is never
    changed, and the other colour changes are off by default, since colour is an attribute of a product.

    Args:
        image_size: Height and width of the result in pixels.
        min_crop_scale: Smallest share of the area that a crop may keep, in (0, 1].
        flip_probability: Probability of a mirror image, in [0, 1].
        colour_jitter: Largest relative change of brightness, contrast and saturation, in [0, 1); 0 is none.

    Raises:
        ValueError: If an argument lies outside its range.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        min_crop_scale: float = 0.7,
        flip_probability: float = 0.5,
        colour_jitter: float = 0.0,
    ) -> None:
        """Checks the arguments."""
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"image_size must be (height, width) in pixels, both at least 1, received {image_size}.")
        if not 0 < min_crop_scale <= 1:
            raise ValueError(f"min_crop_scale must lie in (0, 1], received {min_crop_scale}; 1 keeps the whole image.")
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], received {flip_probability}.")
        if not 0 <= colour_jitter < 1:
            raise ValueError(f"colour_jitter must lie in [0, 1), received {colour_jitter}; 0 leaves colours alone.")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.min_crop_scale = min_crop_scale
        self.flip_probability = flip_probability
        self.colour_jitter = colour_jitter

    def draw(self, rng: np.random.Generator) -> ImageView:
        """Draws a view.

        Args:
            rng: Source of all randomness.

        Returns:
            The view.
        """
        scale = rng.uniform(self.min_crop_scale, 1)
        # beyond these factors a crop of this area would not fit into the image
        stretch = math.exp(rng.uniform(math.log(max(3 / 4, scale)), math.log(min(4 / 3, 1 / scale))))
        width, height = min(1.0, math.sqrt(scale * stretch)), min(1.0, math.sqrt(scale / stretch))
        left, upper = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        is_mirrored = bool(rng.random() < self.flip_probability)
        jitter = self.colour_jitter
        factors = tuple((1 + rng.uniform(-jitter, jitter, size=3)).tolist()) if jitter > 0 else ()
        return ImageView((left, upper, min(1.0, left + width), min(1.0, upper + height)), is_mirrored, factors)

    def min_size(self, view: ImageView) -> tuple[int, int]:
        """Tells how large the whole image must be for the crop to have as many pixels as the result.

        Args:
            view: The view.

        Returns:
            Height and width in pixels.
        """
        left, upper, right, lower = view.box
        height, width = self.image_size
        return math.ceil(height / (lower - upper)), math.ceil(width / (right - left))

    def render(
        self, pixels: np.ndarray, view: ImageView, extent: tuple[float, float] | None = None, resample: int = 3
    ) -> torch.Tensor:
        """Makes a view of an image.

        Args:
            pixels: RGB pixels, uint8, shape `(H, W, 3)`.
            view: The view. Its box is moved, mostly by less than a pixel, to start at a whole pixel.
            extent: Height and width of the image in these pixels, as `load_product_pixels` returns them.
            resample: A key of `modeling_eclip.inference.resizing.RESAMPLE_KERNELS`.

        Returns:
            RGB pixels, uint8, shape `(3, height, width)` with the `image_size`.
        """
        height, width = extent if extent is not None else (pixels.shape[0], pixels.shape[1])
        left, upper, right, lower = view.box
        rows, columns = (lower - upper) * height, (right - left) * width
        # rounded down where the nearest whole pixel would push the crop's end out of the image
        top = max(0, min(round(upper * height), math.floor(height - rows)))
        start = max(0, min(round(left * width), math.floor(width - columns)))
        crop = pixels[top : math.ceil(top + rows), start : math.ceil(start + columns)]
        resized = resize_pixels(crop, self.image_size, (rows, columns), resample)
        if view.is_mirrored:
            resized = resized.flip(-1)
        return _with_changed_colours(resized, view.colour_factors) if view.colour_factors else resized


def _with_changed_colours(pixels: torch.Tensor, factors: tuple[float, ...]) -> torch.Tensor:
    """Multiplies brightness, contrast and saturation; pixels and result have shape `(3, H, W)`."""
    from PIL import Image, ImageEnhance

    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(factor)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class TitleAugmentation:
    """Leaves words out and changes their order: a product's title is a list of words rather than a sentence.

    Of several texts that are joined to one, each loses and moves words of its own.

    Args:
        word_dropout: Probability of leaving out each word, in [0, 1); one word is always kept.
        shuffle_probability: Probability of putting a title's words in another order, in [0, 1].

    Raises:
        ValueError: If an argument lies outside its range.
    """

    def __init__(self, word_dropout: float = 0.0, shuffle_probability: float = 0.0) -> None:
        """Checks the arguments."""
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout must lie in [0, 1), received {word_dropout}; 0 keeps all words.")
        if not 0 <= shuffle_probability <= 1:
            raise ValueError(f"shuffle_probability must lie in [0, 1], received {shuffle_probability}; 0 keeps order.")
        self.word_dropout = word_dropout
        self.shuffle_probability = shuffle_probability

    def __call__(self, title: str, rng: np.random.Generator) -> str:
        """Makes one random version.

        Args:
            title: Title with at least one word.
            rng: Source of all randomness.

        Returns:
            The title with words left out or moved; the title unchanged where neither was drawn.
        """
        return FIELD_SEPARATOR.join(self._one_text(text, rng) for text in title.split(FIELD_SEPARATOR))

    def _one_text(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        kept = np.flatnonzero(rng.random(len(words)) >= self.word_dropout)
        if len(kept) == 0 and words:
            kept = rng.integers(len(words), size=1)
        is_shuffled = rng.random() < self.shuffle_probability
        if is_shuffled:
            rng.shuffle(kept)
        if len(kept) == len(words) and not is_shuffled:
            return text
        return " ".join(words[place] for place in kept)
