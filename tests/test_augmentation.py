"""Random views of a product."""

import numpy as np
import pytest
from PIL import Image

from training.augmentation import ProductAugmentation, TitleAugmentation


def ramp(width: int = 60, height: int = 40) -> Image.Image:
    """Red grows to the right and green downwards, so that a pixel tells where it was."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_a_view_has_the_size_asked_for_and_depends_on_the_generator_alone():
    augment = ProductAugmentation((24, 16))
    views = [augment(ramp(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert views[0].size == (16, 24)
    assert views[0].mode == "RGB"
    assert views[0].tobytes() == views[1].tobytes()
    assert views[0].tobytes() != views[2].tobytes()


@pytest.mark.parametrize("size", [(60, 40), (20, 200), (300, 10), (1, 1)])
@pytest.mark.parametrize("min_crop_scale", [0.3, 0.7, 1.0])
def test_crops_lie_inside_and_keep_the_product(size, min_crop_scale):
    width, height = size
    augment = ProductAugmentation((8, 8), min_crop_scale=min_crop_scale)
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, upper, right, lower = augment.crop_box(width, height, rng)
        assert 0 <= left < right <= width
        assert 0 <= upper < lower <= height
        assert (right - left) * (lower - upper) >= (min_crop_scale - 1e-9) * width * height
        stretch = (right - left) / (lower - upper) * height / width
        assert 3 / 4 - 1e-6 <= stretch <= 4 / 3 + 1e-6


def test_the_whole_picture_with_nothing_changed_is_a_resize():
    augment = ProductAugmentation((40, 60), min_crop_scale=1.0, flip_probability=0.0)
    assert augment(ramp(), np.random.default_rng(0)).tobytes() == ramp().tobytes()


def test_flip_mirrors_left_and_right():
    augment = ProductAugmentation((40, 60), min_crop_scale=1.0, flip_probability=1.0)
    mirrored = np.asarray(augment(ramp(), np.random.default_rng(0)))
    assert (mirrored == np.asarray(ramp())[:, ::-1]).all()


def test_half_of_the_views_are_mirrored():
    augment = ProductAugmentation((4, 4))
    rng = np.random.default_rng(0)
    reds = [np.asarray(augment(ramp(), rng))[0, [0, -1], 0].astype(int) for _ in range(200)]
    assert 70 < sum(left > right for left, right in reds) < 130


def test_colours_are_left_alone_unless_asked_for():
    grey = Image.new("RGB", (10, 10), (100, 150, 200))
    plain = ProductAugmentation((10, 10))(grey, np.random.default_rng(0))
    assert plain.getcolors() == [(100, (100, 150, 200))]
    jittered = ProductAugmentation((10, 10), colour_jitter=0.4)(grey, np.random.default_rng(0))
    ((_, (red, green, blue)),) = jittered.getcolors()
    assert (red, green, blue) != (100, 150, 200)
    assert red < green < blue  # never the hue


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 8)}, r"image_size must be .* received \(0, 8\)"),
        ({"image_size": (8, 8), "min_crop_scale": 0}, "min_crop_scale must lie in .* received 0"),
        ({"image_size": (8, 8), "min_crop_scale": 1.2}, "min_crop_scale must lie in .* received 1.2"),
        ({"image_size": (8, 8), "flip_probability": -0.1}, "flip_probability must lie in .* received -0.1"),
        ({"image_size": (8, 8), "colour_jitter": 1.0}, "colour_jitter must lie in .* received 1.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProductAugmentation(**arguments)


def test_titles_lose_and_move_words_as_often_as_asked():
    title = "one  two three four five six seven eight nine ten"  # two spaces: kept where nothing changes
    rng = np.random.default_rng(0)
    assert TitleAugmentation()(title, rng) == title
    dropped = [TitleAugmentation(word_dropout=0.2)(title, rng).split() for _ in range(300)]
    assert 7.6 < np.mean([len(words) for words in dropped]) < 8.4
    assert all(words == [word for word in title.split() if word in words] for words in dropped)
    shuffled = [TitleAugmentation(shuffle_probability=0.5)(title, rng).split() for _ in range(300)]
    assert 0.4 < np.mean([words != title.split() for words in shuffled]) < 0.6
    assert all(sorted(words) == sorted(title.split()) for words in shuffled)
    assert TitleAugmentation(word_dropout=0.999)("only", rng) == "only"


@pytest.mark.parametrize("field", ["word_dropout", "shuffle_probability"])
def test_title_arguments_are_checked(field):
    with pytest.raises(ValueError, match=f"{field} must lie in"):
        TitleAugmentation(**{field: -0.1})
