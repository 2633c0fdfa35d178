"""A LanceDB table that follows a shop: upserts and deletions by id, filters, words beside vectors, indices kept up.

To run it: `python examples/search_updates.py outputs/quickstart outputs/shop_table`.
"""

import sys

import lancedb
from lancedb.index import FTS, Bitmap, BTree, IvfRq
from lancedb.rerankers import RRFReranker
from torch.nn.functional import normalize

from modeling_eclip import EClipModel, EClipProcessor, embed_products
from modeling_eclip.toy import toy_catalog

COLUMNS, INDICES = ("id", "title", "colour", "vector"), {"id": BTree(), "colour": Bitmap(), "title": FTS(stem=False)}


def change(table: lancedb.table.Table, products: list[dict], sold: list[str]) -> None:
    """Write products, in place of those with their ids or as new ones, and delete some by id; it is seen at once."""
    if latest := [*{one["id"]: one for one in products}.values()]:  # an id given twice would become two rows
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(latest)
    gone = ", ".join("'" + str(one).replace("'", "''") + "'" for one in sold)
    table.delete(f"id IN ({gone})") if gone else None


def tend(table: lancedb.table.Table, index_from: int = 50_000) -> None:
    """Make indices, of vectors where there are many, and take changes into them: without, these are compared whole."""
    known, rows = {index.columns[0]: index.name for index in table.list_indices()}, table.count_rows()
    for column in INDICES.keys() - known.keys():
        table.create_index(column, config=INDICES[column])
    drawn_for = int(known.get("vector", "_0").split("_")[-1])  # so many rows decided the cells, as the name keeps
    if rows >= index_from and not drawn_for / 2 < rows < 2 * drawn_for:
        table.create_index("vector", config=IvfRq(distance_type="dot", num_partitions=256), name=f"vector_{rows}")
        table.drop_index(known["vector"]) if drawn_for else None
    table.optimize()


def find(table: lancedb.table.Table, vector: list, words: str, where: str | None = None, limit: int = 10) -> list:
    """Return what fulfils a condition and ranks high by its vector, by the words of its title, or by both."""
    query = table.search(query_type="hybrid").vector(vector).text(words).rerank(RRFReranker())
    return query.distance_type("dot").nprobes(16).refine_factor(10).where(where).limit(limit).to_list()


def main(checkpoint: str, folder: str, num_offers: int = 4000) -> None:
    """Fill a table, sell what is found first, colour what is second, and ask again."""
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    offers = toy_catalog(num_offers)["test"]
    vectors = normalize(sum(embed_products(model, processor, offers["title"], offers["image"]).values()), dim=-1)
    rows = zip(offers["offer_id"], offers["title"], offers["colour"], vectors.tolist(), strict=True)
    products = [dict(zip(COLUMNS, (str(row[0]), *row[1:]), strict=True)) for row in rows]
    tend(table := lancedb.connect(folder).create_table("shop", products, mode="overwrite"))
    asked = (products[0]["vector"], products[0]["title"], f"colour = '{products[0]['colour']}'")
    first, second = find(table, *asked)[:2]
    change(table, [{name: second[name] for name in COLUMNS} | {"colour": "other"}], sold=[first["id"]])
    print(f"{len(table)} products; first was {first['title']!r}, now is {find(table, *asked)[0]['title']!r}")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
