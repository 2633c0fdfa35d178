"""Search products by words, by an image, and by both, in a LanceDB table on disk.

    python examples/search.py outputs/quickstart outputs/search [products.parquet]

Draws what it finds to `outputs/search/found.png`. Without a file of your own (columns `title`, `image`, and if known
`category` and `colour`) the products are generated ones. `demo/product_search.py` indexes tables larger than memory.
"""

import sys
from pathlib import Path

import lancedb
import pyarrow.parquet as pq
from torch.nn.functional import normalize

from modeling_eclip import EClipModel, EClipProcessor, embed_products, load_product_image
from modeling_eclip.plots import draw_found
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, products: str | None = None, num_offers: int = 4000) -> None:
    """Build a table, ask it some questions, and draw the answers."""
    rows = pq.read_table(products).to_pylist() if products else list(toy_catalog(num_offers)["test"])
    rows = [row for row in rows if row.get("title") and row.get("image") is not None]
    if not rows:
        sys.exit(f"{products} has no row with a `title` and an `image`; examples/embed.py is for titles alone.")
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)

    def embed(titles: list[str] | None, images: list | None) -> list[list[float]]:
        """Return one vector per product or question: the mean of what the title and the image became."""
        return normalize(sum(embed_products(model, processor, titles, images).values()), dim=-1).tolist()

    records = []
    for number, vector in enumerate(embed([row["title"] for row in rows], [row["image"] for row in rows])):
        title, path, colour = (rows[number].get(name) or "" for name in ("title", "category", "colour"))
        category = path if isinstance(path, str) else " > ".join(path)
        records.append({"row": number, "title": title, "category": category, "colour": colour, "vector": vector})
    table = lancedb.connect(folder).create_table("products", records, mode="overwrite")
    print(f"{len(table)} products in {folder}, {model.config.projection_dim} numbers each")

    images, words = [rows[0]["image"]], [rows[-1]["title"]]  # what a customer has
    questions = [(words[0], words, None, None), ("this image", None, images, None)]
    questions.append((f"this image, and: {words[0]}", words, images, None))
    if colour := records[-1]["colour"].replace("'", "''"):
        questions.append((f"this image, colour {colour}", None, images, f"colour = '{colour}'"))
    drawn = []
    for question, text, image, condition in questions:
        query = table.search(embed(text, image)[0]).distance_type("dot").where(condition)
        print(f"\n{question}")
        for found in (answers := query.limit(6).to_list()):
            print(f"  {1 - found['_distance']:.2f}  {found['title'][:50]:52}{found['category']}, {found['colour']}")
        shown = [(load_product_image(rows[found["row"]]["image"]), found["title"]) for found in answers]
        drawn.append((question, image and load_product_image(image[0]), shown))
    draw_found(drawn, Path(folder) / "found.png")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
