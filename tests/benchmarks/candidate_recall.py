"""Which true pairs of offers are among those that are compared: `candidate_recall.py --checkpoint FOLDER`.

Candidates are nearest neighbours by the title tower's vectors, pairs that share rare n-grams, or both. For each, this
prints the candidates per offer, and the share of the pairs of one product that are among them; and at last what it
takes to weigh a pair.
"""

import argparse
import time

import torch
from accelerate import Accelerator

from modeling_eclip import EClipConfig, EClipForProductMatching, EClipProcessor, ProductEmbeds
from modeling_eclip.fusion_eclip import select_products
from modeling_eclip.processing_eclip import lexical_ids
from modeling_eclip.retrieval.product_pairs import product_pairs
from modeling_eclip.retrieval.shared_ngrams import shared_ngram_pairs
from training.arguments.data import DataArguments
from training.engine.build import load_split
from training.tasks.features import represent

_TIMED_ROWS = 4096


def true_pairs(catalog_ids: torch.Tensor) -> set[tuple[int, int]]:
    """Return the pairs of rows of one catalog, the smaller row first."""
    of_catalog: dict[int, list[int]] = {}
    for row, catalog in enumerate(catalog_ids.tolist()):
        of_catalog.setdefault(catalog, []).append(row)
    return {
        (one, other)
        for catalog, rows in of_catalog.items()
        if catalog >= 0
        for place, one in enumerate(rows)
        for other in rows[place + 1 :]
    }


def main() -> None:
    """Represent the offers once, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of an e-CLIP checkpoint")
    parser.add_argument("--data", default="../shared/data/pricerunner/test.parquet", help="offers with a catalog_id")
    parser.add_argument("--neighbors", type=int, nargs="+", default=[5, 10, 20], help="of each kind, per offer")
    arguments = parser.parse_args()
    config = EClipConfig.from_pretrained(arguments.checkpoint)
    config.modality, config.lexical_rows = "text", 1
    head = EClipForProductMatching.from_pretrained(arguments.checkpoint, config=config, dtype=torch.float32)
    processor = EClipProcessor.from_pretrained(arguments.checkpoint)
    processor.lexical_features = True
    data = DataArguments(train_data=["toy"], test_data=[arguments.data], image_column="none", num_workers=0)
    offers = represent(head, load_split(data, "test"), processor, Accelerator(cpu=True), batch_size=256)
    embeds = offers.embeds
    by_vectors = ProductEmbeds(**{name: value for name, value in embeds.items() if name != "lexical"})
    wanted = true_pairs(offers.labels)
    print(f"{len(offers.labels):,} offers, {len(wanted):,} pairs of one product.\n")
    print("| neighbours | candidates | pairs per offer | true pairs among them |\n|--:|---|--:|--:|")
    for number in arguments.neighbors:
        assert embeds.lexical is not None
        found = {
            "nearest vectors": product_pairs(by_vectors, number),
            "shared n-grams": shared_ngram_pairs(embeds.lexical, number),
            "both": product_pairs(embeds, number),
        }
        for name, pairs in found.items():
            recall = len(wanted & set(map(tuple, pairs.tolist()))) / len(wanted)
            print(f"| {number} | {name} | {len(pairs) / len(offers.labels):.1f} | {recall:.3f} |", flush=True)
    torch.set_num_threads(1)
    timed = found["both"][:_TIMED_ROWS]
    titles = offers.titles[:_TIMED_ROWS]
    with torch.no_grad():
        started = time.perf_counter()
        head.evidence(head.pair_evidence(select_products(embeds, timed[:, 0]), select_products(embeds, timed[:, 1])))
        weighed = time.perf_counter()
        lexical_ids(titles)
        hashed = time.perf_counter()
    print(
        f"\nOn one thread a pair is weighed in {(weighed - started) / len(timed) * 1e6:.0f} us, and the n-grams of a "
        f"title are hashed in {(hashed - weighed) / len(titles) * 1e6:.0f} us."
    )


if __name__ == "__main__":
    main()
