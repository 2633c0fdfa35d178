"""Several texts and images of one product: joined to one text, or averaged, by hand."""

import io
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from test_embed import build, photographs

from modeling_eclip import ProductImageError, embed_products
from modeling_eclip.inference.fields import join_texts, pool_vectors, read_row, read_texts

SHOE = {"title": "Trail shoe", "brand": "Acme", "key_points": ["light", None, " firm "], "price": 12.5, "note": " "}


def test_fields_are_joined_with_their_names():
    assert join_texts(SHOE) == "Trail shoe | brand: Acme | key points: light, firm | price: 12.5"
    assert join_texts({"brand": "Acme", "title": "Mug"}, title="title") == "Mug | brand: Acme"
    assert join_texts({"title": None, "brand": "Acme", "size": float("nan")}) == "brand: Acme"
    assert join_texts({}) == join_texts({"title": " "}) == ""


def test_cells_are_read_as_training_reads_them():
    cells = {"title": "Mug", "key_points": np.array(["light", None], object), "size": 12.0, "weight": np.float32(1.5),
             "new": True, "stock": pandas.NA, "seen": pandas.NaT, "rating": np.float32("nan"),
             "seller": (), "codes": [np.float32(12), np.bool_(True)]}  # fmt: skip
    assert join_texts(cells) == "Mug | key points: light | size: 12 | weight: 1.5 | new: true | codes: 12, true"
    for value in (b"Acme", {"name": "Acme"}, {"Acme"}, [["Acme"]]):
        with pytest.raises(ValueError, match="a text of a product is .*Acme.*; give text, a number, or a list"):
            join_texts({"title": "Mug", "brand": value})


def test_texts_of_products_are_read():
    assert read_texts(["a", SHOE]) == (
        ["a", "Trail shoe | brand: Acme | key points: light, firm | price: 12.5"],
        [0, 1],
        [1.0, 1.0],
    )
    # Those that the model was trained with come first, in their order and with their weights; of weight 0, not at all.
    fields = {"title": 2.0, "key_points": 0.5, "brand": 0.0, "joined": 1.0}
    texts = ["Trail shoe", "light", "firm", "12.5", "a"]
    assert read_texts([SHOE, "a"], fields, "mean") == (texts, [0, 0, 0, 0, 1], [2.0, 0.25, 0.25, 1.0, 1.0])
    assert read_texts([SHOE], fields)[0] == ["Trail shoe | key points: light, firm | brand: Acme | price: 12.5"]
    assert read_texts([{"brand": "Acme"}], fields, "mean")[0] == ["brand: Acme"]  # nothing has a weight: joined
    with pytest.raises(ValueError, match="`field_pooling` is 'max'; give one of 'joined', 'mean'"):
        read_texts([], None, "max")


def test_vectors_are_averaged_by_direction():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0], [3.0, 4.0]], dtype=torch.float16)
    pooled = pool_vectors(vectors, torch.tensor([0, 0, 2, 3]), torch.tensor([3.0, 4.0, 1.0, 0.5]), 4)
    # 3 (1, 0) + 4 (0, 1), to length 1; product 1 has none. Float16 has three digits.
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0], [0.6, 0.8]])
    torch.testing.assert_close(pooled, expected, atol=1e-3, rtol=0)


def test_many_products_with_several_texts_and_images():
    model, processor = build()
    processor.fields = {"text": [["title", 1.0], ["brand", 3.0], ["joined", 4.0]]}
    images = photographs(4)
    titles = ["a blue shirt", {"brand": "red", "title": "red shoes"}]
    alone = embed_products(model, processor, ["a blue shirt", "red shoes | brand: red", "red shoes", "red"], images)
    found = embed_products(model, processor, titles, [images[0], [images[1], images[3]], images[2]])
    # Other batches than one by one, hence to rounding.
    torch.testing.assert_close(found["text_embeds"], alone["text_embeds"][:2], atol=1e-5, rtol=0)
    text, image = alone["text_embeds"], alone["image_embeds"]
    expected = torch.stack([image[0], torch.nn.functional.normalize(image[1] + image[3], dim=0), image[2]])
    torch.testing.assert_close(found["image_embeds"], expected, atol=1e-5, rtol=0)
    cell = np.empty(2, object)  # as pandas reads lists from parquet
    cell[:] = images[:2]
    arrays, lists = (embed_products(model, processor, images=[one]) for one in (cell, images[:2]))
    torch.testing.assert_close(arrays["image_embeds"], lists["image_embeds"])
    images[0].save(content := io.BytesIO(), "PNG")
    processor.fields["image"] = [["photo", 3.0], ["more", 1.0]]
    fields = [{"more": [images[0], images[2]], "photo": images[1]}, images[3], {"bytes": content.getvalue()}]
    weighted = embed_products(model, processor, images=fields)["image_embeds"]
    expected = torch.nn.functional.normalize(3 * image[1] + 0.5 * image[0] + 0.5 * image[2], dim=0)
    torch.testing.assert_close(weighted, torch.stack([expected, image[3], image[0]]), atol=1e-5, rtol=0)
    pooled = embed_products(model, processor, titles, field_pooling="mean")["text_embeds"]
    expected = torch.stack([text[0], torch.nn.functional.normalize(text[2] + 3 * text[3], dim=0)])
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


def test_bad_images_are_named_by_product_and_place():
    model, processor = build()
    (image,) = photographs(1)
    with pytest.raises(ProductImageError, match=r"^images\[1\]\[1\]: "):
        embed_products(model, processor, images=[image, [image, b"no image"]])
    with pytest.raises(ValueError, match=r"`images\[1\]` is an empty list"):
        embed_products(model, processor, images=[image, []])


def test_rows_of_tables_are_read_by_the_columns_of_the_model():
    row = {"title": "Mug", "brand": None, "note": ["new", " "], "image": "a.png", "more": ["b.png", None, b"c", ""]}
    assert read_row(row) == {"texts": {"title": ["Mug"]}, "images": {"image": [Path("a.png")]}, "title": "Mug",
                             "image": Path("a.png")}  # fmt: skip
    fields = {"text": [["note", 1.0], ["brand", 1.0]], "image": [["more", 2.0], ["absent", 1.0]]}
    found = read_row(row, fields, "shop")
    assert found["texts"] == {"note": ["new"], "brand": []} and found["title"] == "new"
    assert found["images"] == {"more": [Path("shop/b.png"), b"c"], "absent": []}
    assert found["image"] == Path("shop/b.png")
    assert read_row({}, fields)["image"] is None
