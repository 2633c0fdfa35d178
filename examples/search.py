"""Search products by words, by an image, and by both, in a LanceDB table on disk.

    python examples/search.py outputs/quickstart outputs/search [products.csv [TITLE_COLUMN IMAGE_COLUMN]]

Draws what it finds to `outputs/search/found.png`. Without a CSV, JSON-lines or parquet file of your own (with columns
`category` and `colour`, if known) products are generated. `demo/product_search.py` indexes tables larger than memory.
"""

import sys
from pathlib import Path

import lancedb
from datasets import load_dataset
from torch.nn.functional import normalize

from modeling_eclip import EClipModel, EClipProcessor, embed_products, load_product_image
from modeling_eclip.plots import draw_found
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, products: str = "", title: str = "title", image: str = "image") -> None:
    """Build a table, ask it some questions, and draw the answers."""
    kind = {".csv": "csv", ".json": "json", ".jsonl": "json"}.get(Path(products).suffix, "parquet")
    table = load_dataset(kind, data_files=products, split="train") if products else toy_catalog(4000)["test"]
    rows = [row | {"title": row[title], "image": row[image]} for row in table if row.get(title) and row.get(image)]
    if not rows:
        sys.exit(f"{products} has no row with a {title!r} and an {image!r}; examples/embed.py is for titles alone.")
    for row in (row for row in rows if isinstance(row["image"], str)):
        row["image"] = Path(products).parent / row["image"]
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)

    def embed(titles: list[str] | None, images: list | None) -> list[list[float]]:
        """Return one vector per product or question: the mean of what the title and the image became."""
        return normalize(sum(embed_products(model, processor, titles, images).values()), dim=-1).tolist()

    records = []
    for number, vector in enumerate(embed([row["title"] for row in rows], [row["image"] for row in rows])):
        name, path, colour = (rows[number].get(column) or "" for column in ("title", "category", "colour"))
        category = path if isinstance(path, str) else " > ".join(path)
        records.append({"row": number, "title": name, "category": category, "colour": colour, "vector": vector})
    table = lancedb.connect(folder).create_table("products", records, mode="overwrite")
    print(f"{len(table)} products in {folder}, {model.config.projection_dim} numbers each")
    images, words = [rows[0]["image"]], [rows[-1]["title"]]  # what a customer has
    colour = records[-1]["colour"].replace("'", "''")
    questions = [(words[0], words, None, None), ("this image", None, images, None)]
    questions += [(f"this image, and: {words[0]}", words, images, None)]
    questions += [(f"this image, colour {colour}", None, images, f"colour = '{colour}'")] if colour else []
    drawn = []
    for question, text, picture, condition in questions:
        query = table.search(embed(text, picture)[0]).distance_type("dot").where(condition)
        print(f"\n{question}")
        for found in (answers := query.limit(6).to_list()):
            print(f"  {1 - found['_distance']:.2f}  {found['title'][:50]:52}{found['category']}, {found['colour']}")
        shown = [(load_product_image(rows[found["row"]]["image"]), found["title"]) for found in answers]
        drawn.append((question, picture and load_product_image(picture[0]), shown))
    draw_found(drawn, Path(folder) / "found.png")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (3, 4, 6) else sys.exit(__doc__)
