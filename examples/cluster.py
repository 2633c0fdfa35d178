"""Group offers by product, without knowing how many products there are, and draw the groups.

    python examples/cluster.py outputs/quickstart outputs/groups.png

Needs a checkpoint, such as `make quickstart` leaves; the head's weights, which are listed as new, start from those of
the vectors. Fitted, on other offers, are the similarity from which offers are joined, and how much the title counts.
To learn more: `training/finetune.py --task clustering`.
"""

import sys

import torch
from datasets import Dataset
from sklearn.metrics import adjusted_rand_score, completeness_score, homogeneity_score

from modeling_eclip import EClipForProductClustering, EClipProcessor
from modeling_eclip.toy import draw_catalog_sheet, toy_catalog


def catalogs_of(offers: Dataset) -> torch.Tensor:
    """Return the catalog of each offer, and a negative number of its own for one that is alone."""
    return torch.tensor([-1 - row if number is None else number for row, number in enumerate(offers["catalog_id"])])


def main(checkpoint: str, path: str, num_offers: int = 2000, num_drawn: int = 48) -> float:
    """Group generated offers, draw the first groups; return the adjusted Rand index."""
    head = EClipForProductClustering.from_pretrained(checkpoint).eval()
    processor = EClipProcessor.from_pretrained(checkpoint)
    catalog, embeds = toy_catalog(num_offers), {}
    for split in ("validation", "test"):
        products = catalog[split].select_columns(["title", "image"]).rename_column("title", "text")
        embeds[split] = head.represent_products(processor, products)
    head.fit_fusion(embeds["validation"], catalogs_of(catalog["validation"]))

    offers = catalog["test"]
    with torch.no_grad():
        outputs = head.answer(embeds["test"])
    groups = head.cluster(outputs.embeds, products=outputs.products).tolist()
    labels = catalogs_of(offers).tolist()
    score = adjusted_rand_score(labels, groups)
    print(f"{len(offers)} offers of {len(set(labels))} products: {len(set(groups))} groups", end="")
    print(f", joined from a similarity of {head.config.cluster_threshold:.2f}; adjusted Rand index {score:.3f}")
    print(f"groups of one product: {homogeneity_score(labels, groups):.3f}", end="")
    print(f"; products in one group: {completeness_score(labels, groups):.3f}")

    members = [[row for row, other in enumerate(groups) if other == group] for group in sorted(set(groups))]
    shown = [row for rows in members if 2 <= len(rows) <= 8 for row in rows][:num_drawn]
    rows = [{**offers[row], "catalog_id": groups[row]} for row in shown or range(min(8, len(offers)))]
    draw_catalog_sheet(rows, path)  # a frame is a group
    print(f"{len(rows)} of them are drawn in {path}")
    return score


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
