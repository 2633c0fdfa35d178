"""faiss' exact search: the dot product of each query with every vector: `faiss_side.py WORK JSON`."""

from typing import Any

import faiss
from measure import measure, report
from workloads import draw_products


def search(number: int, dim: int, queries: int) -> dict[str, Any]:
    """The 10 nearest of each query by dot products, all at once."""
    vectors, asked = draw_products(number, dim, queries)
    index = faiss.IndexFlatIP(dim)
    index.add(vectors)
    index.search(asked[:20], 10)
    found, seconds, peak_bytes = measure(lambda: index.search(asked, 10)[1])
    return {"neighbors": found.tolist(), "bytes_in_memory": 4 * dim, "seconds": seconds, "peak_bytes": peak_bytes}


if __name__ == "__main__":
    report({"search": search})
