"""Search products by words, by an image, and by both, in a LanceDB table on disk.

    python examples/search.py outputs/quickstart outputs/search [products.csv [TITLE_COLUMN IMAGE_COLUMN]]

Draws what it finds to `outputs/search/found.png`. Without a CSV, JSON-lines or parquet file of your own (with columns
`category` and `colour`, if known) products are generated. Columns that are not named are those, be it several, that
the model was trained with. `demo/product_search.py` indexes tables larger than memory.
"""

import sys
from pathlib import Path

import lancedb
from datasets import load_dataset
from torch.nn.functional import normalize

from modeling_eclip import EClipModel, EClipProcessor, embed_products, load_product_image
from modeling_eclip.inference.fields import read_row
from modeling_eclip.plots import draw_found
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, products: str = "", title: str = "", image: str = "") -> None:
    """Build a table, ask it some questions, and draw the answers."""
    kind = {".csv": "csv", ".json": "json", ".jsonl": "json"}.get(Path(products).suffix, "parquet")
    table = load_dataset(kind, data_files=products, split="train") if products else toy_catalog(4000)["test"]
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    fields = {"text": [(title, 1.0)], "image": [(image, 1.0)]} if title else processor.fields
    rows = [row | read_row(row, fields, Path(products).parent) for row in table]
    if not (rows := [row for row in rows if row["title"] and row["image"]]):
        sys.exit(f"{products} has no row with a {title or 'title'!r} and an {image or 'image'!r}; name its columns.")

    def embed(titles: list | None, images: list | None) -> list[list[float]]:
        """Return one vector per product or question: the mean of what its texts and its images became."""
        return normalize(sum(embed_products(model, processor, titles, images).values()), dim=-1).tolist()

    records = []
    for number, vector in enumerate(embed([row["texts"] for row in rows], [row["images"] for row in rows])):
        name, path, colour = (rows[number].get(column) or "" for column in ("title", "category", "colour"))
        category = path if isinstance(path, str) else " > ".join(path)
        records.append({"row": number, "title": name, "category": category, "colour": colour, "vector": vector})
    table = lancedb.connect(folder).create_table("products", records, mode="overwrite")
    print(f"{len(table)} products in {folder}, {model.config.projection_dim} numbers each")
    images, word = [rows[0]["image"]], rows[-1]["title"]  # what a customer has
    colour = records[-1]["colour"].replace("'", "''")
    questions = [(word, [word], None), ("this image", None, images), (f"this image, and: {word}", [word], images)]
    questions += [(f"this image, colour {colour}", None, images, f"colour = '{colour}'")] if colour else []
    drawn = []
    for question, text, picture, *condition in questions:
        query = table.search(embed(text, picture)[0]).distance_type("dot").where(*condition or [None])
        print(f"\n{question}")
        for found in (answers := query.limit(6).to_list()):
            print(f"  {1 - found['_distance']:.2f}  {found['title'][:50]:52}{found['category']}, {found['colour']}")
        shown = [(load_product_image(rows[found["row"]]["image"]), found["title"]) for found in answers]
        drawn.append((question, picture and load_product_image(picture[0]), shown))
    draw_found(drawn, Path(folder) / "found.png")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (3, 4, 6) else sys.exit(__doc__)
