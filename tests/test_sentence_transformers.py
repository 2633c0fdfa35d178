"""A checkpoint as a `SentenceTransformer`: the model's vectors, whatever is encoded, and whoever loads it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import WITHOUT_PACKAGE, noise_image, save_checkpoint

from modeling_eclip import EClipForProductMatching, EClipModel

sentence_transformers = pytest.importorskip("sentence_transformers")

TITLES = ["red shoes", "a blue shirt of which there is rather more to say", "a red square", ""]
IMAGES = [noise_image(0), noise_image(1, 30, 50), noise_image(2, 64, 64), noise_image(3)]

STRANGER = (
    WITHOUT_PACKAGE
    + """
import sys
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
folder, image, output = sys.argv[1:]
model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
inputs = ["red shoes", image, {"text": "red shoes", "image": Image.open(image)}]
vectors = model.encode(inputs)
model.save_pretrained(output + ".saved")
again = SentenceTransformer(output + ".saved", trust_remote_code=True, device="cpu").encode(inputs)
np.save(output, np.stack([vectors, again]))
"""
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = save_checkpoint(folder)
    return folder, model, processor


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return sentence_transformers.SentenceTransformer(str(checkpoint[0]), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def embeds(checkpoint):
    """The model's own vectors of titles, of images, and of products with both."""
    _, model, processor = checkpoint
    with torch.no_grad():
        text = torch.cat([model(**processor(text=title, return_tensors="pt")).text_embeds for title in TITLES])
        image = torch.cat([model(**processor(images=one, return_tensors="pt")).image_embeds for one in IMAGES])
    both = (text + image) / (text + image).norm(dim=1, keepdim=True)
    return text.numpy(), image.numpy(), both.numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_vectors_are_those_of_the_model(loaded, embeds, batch_size):
    text, image, both = embeds
    assert np.abs(loaded.encode(TITLES, batch_size=batch_size) - text).max() < 1e-5
    assert np.abs(loaded.encode(IMAGES, batch_size=batch_size) - image).max() < 1e-5
    products = [{"text": title, "image": pil_image} for title, pil_image in zip(TITLES[:3], IMAGES[:3], strict=True)]
    assert np.abs(loaded.encode(products, batch_size=batch_size) - both[:3]).max() < 1e-5
    assert np.abs(text[0] - image[0]).max() > 0.01 < np.abs(text[0] - text[1]).max()


def test_inputs_of_all_kinds_go_together(loaded, embeds, tmp_path):
    text, image, both = embeds
    IMAGES[1].save(tmp_path / "image.png")
    undecoded = {"bytes": (tmp_path / "image.png").read_bytes(), "path": None}
    chat = {
        "role": "user",
        "content": [{"type": "image", "image": IMAGES[2]}, {"type": "text", "text": TITLES[2]}],
    }
    mixed = {
        "a title": (TITLES[0], text[0]),
        "an image": (IMAGES[0], image[0]),
        "a path": (str(tmp_path / "image.png"), image[1]),
        "an array": (np.array(IMAGES[2]), image[2]),
        "a title in a product": ({"text": TITLES[1]}, text[1]),
        "an image in a product": ({"text": None, "image": IMAGES[1]}, image[1]),
        "both": ({"image": IMAGES[1], "text": TITLES[1]}, both[1]),
        "an image from datasets": ({"image": undecoded}, image[1]),
        "a message": ([chat], both[2]),
    }
    vectors = loaded.encode([item for item, _ in mixed.values()], batch_size=4)
    for (name, (_, expected)), vector in zip(mixed.items(), vectors, strict=True):
        assert np.abs(vector - expected).max() < 1e-5, name
    # Alone, too, and as one input rather than a list.
    assert np.abs(loaded.encode({"image": IMAGES[1], "text": TITLES[1]}) - both[1]).max() < 1e-5


def test_what_sentence_transformers_offers_works(loaded, embeds):
    text, image, _ = embeds
    assert loaded.get_embedding_dimension() == 16
    assert loaded.similarity_fn_name == "cosine"
    similarities = loaded.similarity(loaded.encode_query(TITLES), loaded.encode_document(IMAGES))
    assert np.abs(similarities.numpy() - text @ image.T).max() < 1e-5
    cut = loaded.encode(TITLES, truncate_dim=8, normalize_embeddings=True)
    assert np.abs(cut - text[:, :8] / np.linalg.norm(text[:, :8], axis=1, keepdims=True)).max() < 1e-5
    assert loaded.encode(TITLES, convert_to_tensor=True).dtype == torch.float32
    assert loaded.encode(TITLES, precision="ubinary").shape == (4, 2)
    assert np.abs(loaded.encode(["shoes"], prompt="red ") - text[:1]).max() < 1e-5
    assert loaded.max_seq_length == 16 and loaded.tokenizer.pad_token is not None
    assert loaded.supports("image") and loaded.supports(("image", "text")) and not loaded.supports("audio")


def test_titles_are_cut_where_the_model_cuts_them(checkpoint):
    loaded = sentence_transformers.SentenceTransformer(str(checkpoint[0]), trust_remote_code=True, device="cpu")
    long = "red shoes " * 50
    assert loaded.preprocess([long])["input_ids"].shape == (1, 16)
    loaded.max_seq_length = 8
    assert loaded.preprocess([long])["input_ids"].shape == (1, 8)
    for no_title in (0, 1):
        with pytest.raises(ValueError, match="special"):
            loaded.max_seq_length = no_title
    assert loaded.max_seq_length == 8


def test_titles_are_padded_as_the_processor_says(tmp_path):
    """SigLIP's text towers read the last position, so that the padding is part of the title."""
    model, processor = save_checkpoint(tmp_path)
    processor.title_padding = "max_length"
    processor.save_pretrained(tmp_path)
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded.preprocess(["red"])["input_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"text": "a", "image": b"no image"}, r"products\[1\]"),
        ({"title": "a"}, r"inputs\[1\].*'title'"),
        ("https://example.org/shoe.jpg", "nothing is fetched"),
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "'video'"),
    ],
)
def test_what_is_no_product_is_refused_by_its_place(loaded, item, message):
    with pytest.raises(ValueError, match=message):
        loaded.preprocess(["a title", item])
    with pytest.raises(ValueError):
        loaded.encode([item])


def test_a_stranger_gets_the_same_vectors_and_can_save_them_again(checkpoint, embeds, tmp_path):
    text, image, both = embeds
    IMAGES[0].save(tmp_path / "image.png")
    arguments = [str(checkpoint[0]), str(tmp_path / "image.png"), str(tmp_path / "vectors.npy")]
    subprocess.run([sys.executable, "-c", STRANGER, *arguments], check=True, cwd=tmp_path)
    expected = np.stack([text[0], image[0], both[0]])
    assert np.abs(np.load(tmp_path / "vectors.npy") - expected).max() < 1e-5
    saved = {path.name for path in (tmp_path / "vectors.npy.saved").iterdir()}
    assert {path.name for path in checkpoint[0].iterdir()} <= saved
    assert EClipModel.from_pretrained(tmp_path / "vectors.npy.saved").config.projection_dim == 16


def test_code_is_not_run_without_trust(checkpoint):
    with pytest.raises(ValueError, match="trust_remote_code"):
        sentence_transformers.SentenceTransformer(str(checkpoint[0]), device="cpu")


def test_other_number_formats_and_backends(checkpoint, embeds):
    half = sentence_transformers.SentenceTransformer(
        str(checkpoint[0]), trust_remote_code=True, device="cpu", model_kwargs={"dtype": torch.bfloat16}
    )
    assert half.dtype == torch.bfloat16
    assert (half.encode(TITLES[:3]) * embeds[0][:3]).sum(axis=1).min() > 0.98
    with pytest.raises(ValueError, match="`backend` is 'onnx'"):
        sentence_transformers.SentenceTransformer(str(checkpoint[0]), trust_remote_code=True, backend="onnx")


def test_it_can_be_trained_there(checkpoint):
    loaded = sentence_transformers.SentenceTransformer(str(checkpoint[0]), trust_remote_code=True, device="cpu")
    loss = sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss(loaded)
    value = loss([loaded.preprocess(TITLES[:3]), loaded.preprocess(IMAGES[:3])], None)
    value.backward()
    gradients = {name for name, parameter in loaded.named_parameters() if parameter.grad is not None}
    assert any("text_model" in name for name in gradients) and any("vision_model" in name for name in gradients)


def test_lancedb_embeds_with_it(checkpoint, embeds, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    from lancedb.pydantic import LanceModel, Vector

    function = lancedb.embeddings.get_registry().get("sentence-transformers").create(name=str(checkpoint[0]))

    class Product(LanceModel):
        title: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(tmp_path).create_table("products", schema=Product)
    table.add([{"title": title} for title in TITLES[:3]])
    assert np.abs(np.array(table.to_arrow()["vector"].to_pylist()) - embeds[0][:3]).max() < 1e-5
    for title in TITLES[:3]:
        assert table.search(title).limit(1).to_list()[0]["title"] == title


def test_only_base_models_are_sentence_transformers(checkpoint, tmp_path):
    """What heads make of products is no vector in the space that titles and images share."""
    EClipForProductMatching.from_pretrained(checkpoint[0]).save_pretrained(tmp_path)
    names = {"modules.json", "config_sentence_transformers.json", "sentence_transformers_eclip.py"}
    assert names <= {path.name for path in checkpoint[0].iterdir()}
    assert not (tmp_path / "modules.json").exists()
