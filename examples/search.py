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
from training.plots import draw_neighbours
from training.toy_catalog import toy_catalog


def main(checkpoint: str, folder: str, products: str | None = None, num_offers: int = 4000) -> None:
    """Build a table, ask it some things, and draw the answers."""
    rows = pq.read_table(products).to_pylist() if products else list(toy_catalog(num_offers)["test"])
    table = ProductTable.build(folder, ProductEmbedder(checkpoint), rows)
    print(f"{len(table)} products in {folder}, {table.embedder.width} numbers each")

    some = rows[0]  # stands for what a customer has at hand
    category, colours = table.choices("category")[0], table.choices("colour")
    questions: list[tuple[str, dict[str, Any]]] = [
        (some["title"], {"text": some["title"]}),
        ("this picture", {"image": some["image"]}),
        (f"this picture, and: {rows[1]['title']}", {"text": rows[1]["title"], "image": some["image"]}),
        (f"this picture, in {category}", {"image": some["image"], "category": category}),
        *[(f"this picture, {colour}", {"image": some["image"], "colour": colour}) for colour in colours[:1]],
    ]
    drawn = []
    for name, question in questions:
        found = table.search(**question, limit=6)
        print(f"\n{name}")
        for product in found:
            print(
                f"  {product['similarity']:.2f}  {product['title'][:50]:52}{product['category']}, {product['colour']}"
            )
        pictures = [(load_product_image(product["thumbnail"]), product["title"] == some["title"]) for product in found]
        drawn.append((name, load_product_image(some["image"]), pictures))
    draw_neighbours(drawn, Path(folder) / "found.png")
    print(f"\n{folder}/found.png shows them")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
