"""Search by bits here against sentence-transformers and faiss: `python tests/benchmarks/search_peers.py`.

Each library finds the 10 nearest of every query among the same vectors, by one bit of each value and then by a second
look at the same number of candidates. Prints recall against the exact answer, the time of all queries, and the bytes
of each vector in memory. A library that is absent is not measured.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from workloads import draw_products

NUM_NEAREST = 10
Search = Callable[[np.ndarray], np.ndarray]


def ours(vectors: np.ndarray, candidates: int) -> tuple[Search, int]:
    """Return this package's search, with the vectors in a file, and the bytes of a vector in memory."""
    from modeling_eclip import BinaryIndex

    index = BinaryIndex(vectors)
    return lambda queries: index.search(queries, NUM_NEAREST, num_candidates=candidates)[1], index.code_bytes


def sentence_transformers(vectors: np.ndarray, candidates: int) -> tuple[Search, int]:
    """Return the search of sentence-transformers, whose second look compares queries with bits."""
    from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

    codes = quantize_embeddings(np.array(vectors), "ubinary")
    *_, index = semantic_search_faiss(
        np.array(vectors[:1]), corpus_embeddings=codes, corpus_precision="ubinary", output_index=True
    )

    def search(queries: np.ndarray) -> np.ndarray:
        found, _ = semantic_search_faiss(
            queries,
            corpus_index=index,
            corpus_precision="ubinary",
            top_k=NUM_NEAREST,
            rescore_multiplier=candidates // NUM_NEAREST,
        )
        return np.array([[one["corpus_id"] for one in row] for row in found])

    return search, codes.shape[1]


def faiss_refined(vectors: np.ndarray, candidates: int) -> tuple[Search, int]:
    """Return faiss' index by bits about trained thresholds, refined by whole vectors, which it holds in memory."""
    import faiss

    width = vectors.shape[1]
    bits = faiss.IndexLSH(width, width, False, True)
    index = faiss.IndexRefineFlat(bits)
    index.k_factor = candidates / NUM_NEAREST
    index.train(np.array(vectors))
    index.add(np.array(vectors))
    bits_of = [bits, index]  # the refined index does not keep the other one alive

    return lambda queries: bits_of[1].search(queries, NUM_NEAREST)[1], width // 8 + 4 * width


LIBRARIES = {
    "this package": ours,
    "sentence-transformers": sentence_transformers,
    "faiss, IndexLSH and IndexRefineFlat": faiss_refined,
}


def main() -> None:
    """Draw vectors, search by every library, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=100_000, help="vectors")
    parser.add_argument("--width", type=int, default=256, help="values of a vector")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=100, help="candidates of a query, a multiple of 10")
    arguments = parser.parse_args()
    vectors, queries = draw_products(arguments.number, arguments.width, arguments.queries)
    exact = np.argpartition(-(queries @ vectors.T), NUM_NEAREST, axis=1)[:, :NUM_NEAREST]
    print(f"| library | recall@{NUM_NEAREST} | {arguments.queries:,} queries | bytes of a vector in memory |")
    print("|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        np.save(path, vectors)
        del vectors
        for name, prepare in LIBRARIES.items():
            try:
                search, num_bytes = prepare(np.load(path, mmap_mode="r"), arguments.candidates)
            except ImportError:
                print(f"| {name} | not measured: it is not installed | | |")
                continue
            search(queries[:20])
            started = time.perf_counter()
            found = search(queries)
            seconds = time.perf_counter() - started
            hits = sum(len({*one.tolist()} & {*other.tolist()}) for one, other in zip(found, exact, strict=True))
            print(f"| {name} | {hits / exact.size:.4f} | {seconds:.2f} s | {num_bytes:,} |", flush=True)


if __name__ == "__main__":
    main()
