"""Random views of a product."""

import numpy as np
import pytest
from PIL import Image

from training.data.augmentation import ImageView, ProductAugmentation, TitleAugmentation


def ramp(width: int = 60, height: int = 40) -> np.ndarray:
    """Red grows to the right and green downwards, so that a pixel tells where it was."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return pixels


def view_of(augmentation: ProductAugmentation, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random view, `(height, width, 3)`."""
    return augmentation.render(pixels, augmentation.draw(rng)).permute(1, 2, 0).numpy()


def test_a_view_has_the_size_asked_for_and_depends_on_the_generator_alone():
    augmentation = ProductAugmentation((24, 16))
    views = [view_of(augmentation, ramp(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert views[0].shape == (24, 16, 3)
    assert views[0].dtype == np.uint8
    assert (views[0] == views[1]).all()
    assert (views[0] != views[2]).any()


@pytest.mark.parametrize("min_crop_scale", [0.3, 0.7, 1.0])
def test_crops_lie_inside_and_keep_the_product(min_crop_scale):
    augmentation = ProductAugmentation((8, 8), min_crop_scale=min_crop_scale)
    rng = np.random.default_rng(0)
    for _ in range(500):
        left, upper, right, lower = augmentation.draw(rng).box
        assert 0 <= left < right <= 1
        assert 0 <= upper < lower <= 1
        assert (right - left) * (lower - upper) >= min_crop_scale - 1e-9
        assert 3 / 4 - 1e-6 <= (right - left) / (lower - upper) <= 4 / 3 + 1e-6


@pytest.mark.parametrize("size", [(60, 40), (20, 200), (300, 10), (1, 1)])
def test_images_of_any_shape_can_be_cropped(size):
    augmentation = ProductAugmentation((8, 6), min_crop_scale=0.3)
    for seed in range(50):
        assert view_of(augmentation, ramp(*size), np.random.default_rng(seed)).shape == (8, 6, 3)


def test_a_crop_of_the_least_size_is_not_enlarged():
    augmentation = ProductAugmentation((224, 160), min_crop_scale=0.5)
    rng = np.random.default_rng(0)
    for _ in range(200):
        view = augmentation.draw(rng)
        height, width = augmentation.min_size(view)
        left, upper, right, lower = view.box
        assert 224 <= (lower - upper) * height < 225
        assert 160 <= (right - left) * width < 161


def test_a_crop_shows_what_its_box_says():
    augmentation = ProductAugmentation((20, 15))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    # rows 20 to 40 and columns 15 to 30: as large as the result
    view = ImageView((0.25, 0.5, 0.5, 1.0))
    assert (augmentation.render(pixels, view).permute(1, 2, 0).numpy() == pixels[20:40, 15:30]).all()
    # in an image that covers its last pixels in part, the shares are of what it covers
    extent = (39.5, 59.2)
    whole = ProductAugmentation((79, 74)).render(pixels, ImageView((0.0, 0.0, 1.0, 1.0)), extent)
    expected = Image.fromarray(pixels).resize((74, 79), Image.Resampling.BICUBIC, box=(0, 0, 59.2, 39.5))
    assert np.abs(whole.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1


def test_the_whole_image_with_nothing_changed_is_itself():
    augmentation = ProductAugmentation((40, 60), min_crop_scale=1.0, flip_probability=0.0)
    assert (view_of(augmentation, ramp(), np.random.default_rng(0)) == ramp()).all()


def test_flip_mirrors_left_and_right():
    augmentation = ProductAugmentation((40, 60), min_crop_scale=1.0, flip_probability=1.0)
    assert (view_of(augmentation, ramp(), np.random.default_rng(0)) == ramp()[:, ::-1]).all()


def test_half_of_the_views_are_mirrored():
    augmentation = ProductAugmentation((4, 4))
    rng = np.random.default_rng(0)
    reds = [view_of(augmentation, ramp(), rng)[0, [0, -1], 0].astype(int) for _ in range(200)]
    assert 70 < sum(left > right for left, right in reds) < 130


def test_colours_are_left_alone_unless_asked_for():
    plain = np.full((10, 10, 3), (100, 150, 200), dtype=np.uint8)
    assert (view_of(ProductAugmentation((10, 10)), plain, np.random.default_rng(0)) == plain).all()
    jittered = view_of(ProductAugmentation((10, 10), colour_jitter=0.4), plain, np.random.default_rng(0))
    ((red, green, blue),) = np.unique(jittered.reshape(-1, 3), axis=0)
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


def test_words_of_joined_texts_stay_in_their_own():
    rng = np.random.default_rng(0)
    shuffled = [
        TitleAugmentation(shuffle_probability=1.0)("dark red shirt | brand: Two Oaks |  | a", rng) for _ in range(50)
    ]
    assert len(set(shuffled)) > 10
    assert {tuple(" ".join(sorted(text.split())) for text in one.split(" | ")) for one in shuffled} == {
        ("dark red shirt", "Oaks Two brand:", "", "a")
    }


@pytest.mark.parametrize("field", ["word_dropout", "shuffle_probability"])
def test_title_arguments_are_checked(field):
    with pytest.raises(ValueError, match=f"{field} must lie in"):
        TitleAugmentation(**{field: -0.1})
