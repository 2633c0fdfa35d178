"""Augmentation fit for products: crops that keep the product, colours left as they are, titles as sellers have them.

Pure functions of the picture or title and of the state of a random generator, so that a row looks the same whichever
worker or rank decodes it. Evaluation uses none of it.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ProductAugmentation", "TitleAugmentation"]


class ProductAugmentation:
    """Random resized crop, horizontal flip and, if asked for, a change of brightness, contrast and saturation.

    The crop covers a share of the picture's area drawn from `[min_crop_scale, 1]`; its aspect ratio is that of the
    picture times a factor within 3/4 and 4/3, so tall and wide pictures keep their ends too. The hue is never changed,
    and the other colour changes are off by default, since colour is an attribute of a product.

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
            raise ValueError(
                f"min_crop_scale must lie in (0, 1], received {min_crop_scale}; 1 keeps the whole picture."
            )
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in [0, 1], received {flip_probability}.")
        if not 0 <= colour_jitter < 1:
            raise ValueError(f"colour_jitter must lie in [0, 1), received {colour_jitter}; 0 leaves colours alone.")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.min_crop_scale = min_crop_scale
        self.flip_probability = flip_probability
        self.colour_jitter = colour_jitter

    def __call__(self, image: "Image.Image", rng: np.random.Generator) -> "Image.Image":
        """Makes one random view.

        Args:
            image: RGB picture of any size.
            rng: Source of all randomness.

        Returns:
            RGB picture of `image_size`.
        """
        from PIL import Image, ImageEnhance, ImageOps

        height, width = self.image_size
        view = image.resize(
            (width, height), resample=Image.Resampling.BICUBIC, box=self.crop_box(*image.size, rng), reducing_gap=2.0
        )
        if rng.random() < self.flip_probability:
            view = ImageOps.mirror(view)
        if self.colour_jitter > 0:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                view = enhance(view).enhance(1 + rng.uniform(-self.colour_jitter, self.colour_jitter))
        return view

    def crop_box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Draws a crop.

        Args:
            width: Width of the picture in pixels.
            height: Height of the picture in pixels.
            rng: Source of all randomness.

        Returns:
            `(left, upper, right, lower)` in pixels, with fractions.
        """
        scale = rng.uniform(self.min_crop_scale, 1)
        # beyond these factors a crop of this area would not fit into the picture
        stretch = math.exp(rng.uniform(math.log(max(3 / 4, scale)), math.log(min(4 / 3, 1 / scale))))
        crop_width = min(width, width * math.sqrt(scale * stretch))
        crop_height = min(height, height * math.sqrt(scale / stretch))
        left = rng.uniform(0, width - crop_width)
        upper = rng.uniform(0, height - crop_height)
        return left, upper, min(width, left + crop_width), min(height, upper + crop_height)


class TitleAugmentation:
    """Leaves words out and changes their order: titles are lists of words more than sentences.

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
            The title with words left out or moved; itself, character by character, where neither was drawn.
        """
        words = title.split()
        kept = np.flatnonzero(rng.random(len(words)) >= self.word_dropout)
        if len(kept) == 0:
            kept = rng.integers(len(words), size=1)
        is_shuffled = rng.random() < self.shuffle_probability
        if is_shuffled:
            rng.shuffle(kept)
        if len(kept) == len(words) and not is_shuffled:
            return title
        return " ".join(words[place] for place in kept)
