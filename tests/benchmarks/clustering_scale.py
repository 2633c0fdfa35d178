"""How long it takes to group a large catalogue: `python tests/benchmarks/clustering_scale.py`.

Vectors of offers around their products, as a clustering head gives them: 200,000 offers of 60,000 products, of as many
dimensions as an EfficientNet-Lite0 and a MiniLM have together. Prints the time, the peak memory and the agreement with
the products.
"""

import argparse
import resource
import time

import torch
from sklearn.metrics import adjusted_rand_score

from modeling_eclip.retrieval.linkage import average_linkage


def main() -> None:
    """Draw vectors, group them, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_offers", type=int, default=200_000)
    parser.add_argument("--num_products", type=int, default=60_000)
    parser.add_argument("--width", type=int, default=1664)
    parser.add_argument("--noise", type=float, default=0.7, help="length of what offers of a product differ by")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    products = torch.randint(arguments.num_products, (arguments.num_offers,))
    # Products of a kind are alike, too: a part of each vector is that of one of 500 kinds.
    kinds = torch.randn(500, arguments.width)[torch.randint(500, (arguments.num_products,))]
    centres = torch.nn.functional.normalize(kinds + torch.randn(arguments.num_products, arguments.width), dim=1)
    embeds = torch.randn(arguments.num_offers, arguments.width).mul_(arguments.noise / arguments.width**0.5)
    embeds = torch.nn.functional.normalize(embeds.add_(centres[products]), dim=1)
    del kinds, centres
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    groups = average_linkage(embeds, 0.6).groups()
    seconds = time.perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    index = adjusted_rand_score(products.numpy(), groups.numpy())
    given = f"{arguments.num_offers:,} offers of width {arguments.width:,}"
    print(f"{given}: {seconds:.0f} s, {memory:.2f} GiB above the vectors")
    print(f"{len(groups.unique()):,} groups of {arguments.num_products:,} products, adjusted Rand index {index:.3f}")


if __name__ == "__main__":
    main()
