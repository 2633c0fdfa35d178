"""A checkpoint in sentence-transformers: titles, images and products with both, in one space.

    pip install sentence-transformers
    python examples/with_sentence_transformers.py outputs/quickstart

Needs a checkpoint, such as `make quickstart` leaves.
"""

import sys

from sentence_transformers import SentenceTransformer

from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, num_offers: int = 500, num_queries: int = 5) -> dict[str, float]:
    """Search offers by title, by image and by both; return how often the same product comes first."""
    model = SentenceTransformer(checkpoint, trust_remote_code=True)
    offers = toy_catalog(num_offers)["train"].filter(lambda row: row["catalog_id"] is not None)
    products = [{"text": row["title"], "image": row["image"]} for row in offers]
    corpus = model.encode_document(products, batch_size=64, show_progress_bar=False)
    print(f"{len(products)} offers, vectors of {model.get_embedding_dimension()} dimensions")

    catalogs, shares = offers["catalog_id"][:], {}
    queries = {"title": offers["title"][:], "image": offers["image"][:], "both": products}
    nearest = {}
    for kind, inputs in queries.items():
        vectors = model.encode_query(inputs, batch_size=64, show_progress_bar=False)
        similarity = model.similarity(vectors, corpus).fill_diagonal_(-1)  # not the offer itself
        nearest[kind] = similarity.argmax(dim=1).tolist()
        found = [catalogs[row] == catalogs[other] for row, other in enumerate(nearest[kind])]
        shares[kind] = sum(found) / len(found)
        print(f"another seller's offer of the product comes first, searched by {kind}: {shares[kind]:.1%}")
    for row in range(num_queries):
        print(products[row]["text"][:60])
        for kind in queries:
            print(f"    by {kind}: {products[nearest[kind][row]]['text'][:60]}")
    return shares


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
