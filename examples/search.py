"""Search products by words, by a picture, and by both, in a LanceDB table on disk.

    python examples/search.py outputs/quickstart outputs/search [products.parquet]

Draws what it finds to `outputs/search/found.png`. Without a file of your own (columns `title`, `image`, and if known
`category` and `colour`) the products are those of the drawn catalogue that training has not seen.
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.demo.product_search import ProductEmbedder, ProductTable
from modeling_eclip import load_product_image
from modeling_eclip.plots import draw_found
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, products: str | None = None, num_offers: int = 4000) -> None:
    """Build a table, ask it some things, and draw the answers."""
    rows = pq.read_table(products).to_pylist() if products else list(toy_catalog(num_offers)["test"])
    if not any(row.get("image") is not None for row in rows):
        sys.exit(f"{products} has no column `image` with a picture in it; examples/embed.py is for titles alone.")
    table = ProductTable.build(folder, ProductEmbedder(checkpoint), rows)
    print(f"{len(table)} products in {folder}, {table.embedder.width} numbers each")

    # They stand for what a customer has at hand.
    some = next(row for row in rows if row.get("image") is not None)
    other = next((row for row in rows if row is not some and row["title"]), some)
    questions: list[tuple[str, dict[str, Any]]] = [
        (other["title"], {"text": other["title"]}),
        ("this picture", {"image": some["image"]}),
        (f"this picture, and: {other['title']}", {"text": other["title"], "image": some["image"]}),
    ]
    for column in ("category", "colour"):
        for value in table.choices(column)[:1]:
            questions.append((f"this picture, {column} {value}", {"image": some["image"], column: value}))
    drawn = []
    for question, asked in questions:
        found = table.search(**asked, limit=6)
        print(f"\n{question}")
        for product in found:
            print(
                f"  {product['similarity']:.2f}  {product['title'][:50]:52}{product['category']}, {product['colour']}"
            )
        own = load_product_image(asked["image"]) if "image" in asked else None
        drawn.append(
            (question, own, [(p["thumbnail"] and load_product_image(p["thumbnail"]), p["title"]) for p in found])
        )
    draw_found(drawn, Path(folder) / "found.png")
    print(f"\n{folder}/found.png shows them")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
