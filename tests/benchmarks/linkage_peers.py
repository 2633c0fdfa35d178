"""Average linkage here against scikit-learn and fastcluster: `python tests/benchmarks/linkage_peers.py`.

Groups the same vectors by each library, each in a process of its own, and prints time, peak memory, and how well the
groups agree (adjusted Rand index) with the generated products and with this package's groups. The vectors are offers
around their products, as a clustering head gives them; products of a kind are alike, too.

fastcluster is no dependency of this project: install it elsewhere and name that folder in `PYTHONPATH`. A library that
is absent is not measured. The peers hold the distances of all pairs; where these would not fit into the memory that is
free, their size is printed instead. `--limit` stops a library that takes too long.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np
from measure import measure

GIB = 2**30
NUM_KINDS = 500
OFFERS_PER_PRODUCT = 10 / 3
THRESHOLD = 0.6


def draw_offers(num_offers: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit vectors of offers around their products.

    Args:
        num_offers: `N`.
        width: Values of a vector, `D`.
        noise: Length of what the offers of a product differ by.

    Returns:
        Vectors, float32, shape `(N, D)`, and the product of each, int64, shape `(N,)`.
    """
    rng = np.random.default_rng(0)
    num_products = max(round(num_offers / OFFERS_PER_PRODUCT), 1)
    products = rng.integers(num_products, size=num_offers)
    kinds = rng.standard_normal((NUM_KINDS, width), dtype=np.float32)[rng.integers(NUM_KINDS, size=num_products)]
    centres = kinds + rng.standard_normal((num_products, width), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    embeds = rng.standard_normal((num_offers, width), dtype=np.float32) * np.float32(noise / width**0.5)
    embeds += centres[products]
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True), products


def prepare_ours() -> Callable[[np.ndarray], np.ndarray]:
    """Return this package's linkage."""
    import torch

    from modeling_eclip.retrieval.linkage import average_linkage

    return lambda embeds: average_linkage(torch.from_numpy(embeds), THRESHOLD).groups().numpy()


def prepare_sklearn() -> Callable[[np.ndarray], np.ndarray]:
    """Return scikit-learn's linkage of all pairs, which is scipy's."""
    from sklearn.cluster import AgglomerativeClustering

    settings = {"n_clusters": None, "distance_threshold": 1 - THRESHOLD, "linkage": "average", "metric": "cosine"}
    return lambda embeds: AgglomerativeClustering(**settings).fit_predict(embeds)


def prepare_sklearn_neighbors() -> Callable[[np.ndarray], np.ndarray]:
    """Return scikit-learn's linkage of groups that are connected by nearest neighbours, as many as ours looks at."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.neighbors import kneighbors_graph

    settings = {"n_clusters": None, "distance_threshold": 1 - THRESHOLD, "linkage": "average", "metric": "cosine"}

    def group(embeds: np.ndarray) -> np.ndarray:
        graph = kneighbors_graph(embeds, 10, metric="cosine", include_self=False)
        return AgglomerativeClustering(**settings, connectivity=graph).fit_predict(embeds)

    return group


def prepare_fastcluster() -> Callable[[np.ndarray], np.ndarray]:
    """Return fastcluster's linkage of all pairs; the distances are made by products of matrices, which is quicker."""
    import fastcluster
    from scipy.cluster.hierarchy import fcluster

    def group(embeds: np.ndarray) -> np.ndarray:
        distances = np.empty(len(embeds) * (len(embeds) - 1) // 2)
        place = 0
        for first in range(0, len(embeds), 256):
            block = 1 - embeds[first : first + 256] @ embeds[first:].T
            for row, values in enumerate(block):
                others = values[row + 1 :]
                distances[place : place + len(others)] = others
                place += len(others)
        return fcluster(fastcluster.linkage(distances, "average", preserve_input=False), 1 - THRESHOLD, "distance")

    return group


# By name: the library, and the bytes that it holds for each pair of offers.
LIBRARIES: dict[str, tuple[Callable[[], Callable[[np.ndarray], np.ndarray]], int]] = {
    "this package": (prepare_ours, 0),
    "scikit-learn": (prepare_sklearn, 8),
    "scikit-learn, nearest neighbours": (prepare_sklearn_neighbors, 0),
    "fastcluster": (prepare_fastcluster, 8),
}


def group_in_process(name: str, embeds: np.ndarray, results: Connection) -> None:
    """Group the vectors and send groups, seconds and bytes; or nothing where the library is absent."""
    try:
        group = LIBRARIES[name][0]()
    except ImportError:
        results.send(None)
        return
    group(embeds[:50])  # what is loaded or compiled at the first call is no part of the time
    results.send(measure(lambda: group(embeds)))


def run(name: str, embeds: np.ndarray, limit: float) -> tuple[np.ndarray, float, int] | str:
    """Group by one library.

    Args:
        name: A key of `LIBRARIES`.
        embeds: The vectors, shape `(N, D)`.
        limit: Seconds after which it is stopped.

    Returns:
        Groups `(N,)`, seconds and bytes at the peak; or why it was not measured.
    """
    pair_bytes = LIBRARIES[name][1] * len(embeds) * (len(embeds) - 1) // 2
    if pair_bytes > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return f"not measured: its distances take N (N - 1) / 2 x 8 bytes = {pair_bytes / GIB:.0f} GiB"
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    process = context.Process(target=group_in_process, args=(name, embeds, sender))
    process.start()
    sender.close()
    try:
        found = results.recv() if results.poll(limit) else f"not measured: stopped after {limit:.0f} s"
    except EOFError:
        found = "not measured: it ended with an error"
    process.terminate()
    process.join()
    return "not measured: it is not installed" if found is None else found


def print_table(libraries: Sequence[str], sizes: Sequence[int], width: int, noise: float, limit: float) -> None:
    """Group offers of every size by every library and print a Markdown table; the first library is compared with."""
    from sklearn.metrics import adjusted_rand_score

    print("| offers | library | time | memory above the vectors | agreement with products | with the first library |")
    print("|--:|---|--:|--:|--:|--:|")
    for size in sizes:
        embeds, products = draw_offers(size, width, noise)
        expected = None
        for name in libraries:
            found = run(name, embeds, limit)
            if isinstance(found, str):
                print(f"| {size:,} | {name} | {found} | | | |", flush=True)
                continue
            groups, seconds, num_bytes = found
            expected = groups if expected is None else expected
            agreement = f"{adjusted_rand_score(products, groups):.4f} | {adjusted_rand_score(expected, groups):.4f}"
            print(f"| {size:,} | {name} | {seconds:.2f} s | {num_bytes / GIB:.2f} GiB | {agreement} |", flush=True)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 20_000, 200_000], help="numbers of offers")
    parser.add_argument("--width", type=int, default=256, help="values of a vector")
    parser.add_argument("--noise", type=float, default=0.7, help="length of what offers of a product differ by")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="some of the libraries")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a library is stopped")
    arguments = parser.parse_args()
    print_table(arguments.only, arguments.sizes, arguments.width, arguments.noise, arguments.limit)


if __name__ == "__main__":
    main()
