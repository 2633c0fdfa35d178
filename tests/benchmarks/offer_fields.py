"""What several texts and images of an offer are worth: `offer_fields.py texts` and `offer_fields.py images`.

`texts`: categories of `flipkart` from titles, from descriptions, from both joined and from both averaged, by a
logistic regression on the vectors of the text tower, in five folds over all rows. `images`: the product of an offer's
photograph (and, with `--checkpoint`, of its title) among all products of the test split of `offers`, each of which has
the photographs of one, two or three of its other offers, averaged. Two minutes on a CPU each.
"""

import argparse
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.inference.fields import pool_vectors
from training.arguments.data import DataArguments
from training.data.fields import row_texts
from training.engine.build import load_split
from training.retrieval.offer_embeddings import embed_dataset

SHARED = "../shared"
TOWERS = (f"{SHARED}/towers/efficientnet-lite0", f"{SHARED}/towers/minilm-l6")


def models(checkpoint: str | None) -> tuple[EClipModel, EClipProcessor]:
    """Load a checkpoint, or put the untrained towers together."""
    if checkpoint is not None:
        return EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    torch.manual_seed(0)
    processor = EClipProcessor.from_towers(*TOWERS, image_size=128, max_title_length=64)
    return EClipModel.from_towers(*TOWERS).eval(), processor


@torch.no_grad()
def tower_vectors(model: EClipModel, processor: EClipProcessor, texts: list[str]) -> torch.Tensor:
    """Return the text tower's vectors, shape `(N, width)`; texts of like lengths form a batch."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    vectors = torch.empty(len(texts), model.config.text_config.hidden_size)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        inputs = processor(text=[texts[row] for row in rows], return_tensors="pt")
        vectors[rows] = model.encode_text(**inputs).pooler_output
    return vectors


def compare_texts(checkpoint: str | None) -> None:
    """Print accuracies of the first and the second level of the categories."""
    model, processor = models(checkpoint)
    files = [f"{SHARED}/data/flipkart/{split}.parquet" for split in ("train", "validation", "test")]
    data = DataArguments(train_data=files, text_columns=["title", "description"], image_column="none", num_workers=0)
    rows = list(load_split(data, "train"))
    texts = [row_texts(row) for row in rows]
    assert all(len(of_row) == 3 for of_row in texts)  # title, description, joined
    title, description, joined = (
        tower_vectors(model, processor, [of_row[place][0] for of_row in texts]) for place in range(3)
    )
    both, owners = torch.stack([title, description], 1).flatten(0, 1), torch.arange(len(rows)).repeat_interleave(2)
    ways = {"title": title, "description": description, "joined": joined}
    ways["averaged"] = pool_vectors(both, owners, torch.ones(len(owners)), len(rows))
    print(f"{len(rows)} offers\n\n| level | categories | {' | '.join(ways)} |\n|--:|--:|{'--:|' * len(ways)}")
    for level in (0, 1):
        labels = np.array([" > ".join(row["category"][: level + 1]) for row in rows])
        names, counts = np.unique(labels, return_counts=True)
        kept = np.isin(labels, names[counts >= 10])  # of each fold some to learn from
        found = []
        for vectors in ways.values():
            regression = LogisticRegressionCV(Cs=[1e-3, 1e-2, 1e-1], cv=3, max_iter=300)
            folds = StratifiedKFold(5, shuffle=True, random_state=0)
            model_of = make_pipeline(StandardScaler(), regression)
            predicted = cross_val_predict(model_of, vectors.numpy()[kept], labels[kept], cv=folds)
            found.append(f"{(predicted == labels[kept]).mean():.3f}")
        print(f"| {level + 1} | {len(set(labels[kept]))} | {' | '.join(found)} |", flush=True)


def compare_images(checkpoint: str | None) -> None:
    """Print how often an offer's product is found, by the number of photographs that products have."""
    model, processor = models(checkpoint)
    test = f"{SHARED}/data/offers/test.parquet"
    data = DataArguments(train_data=[test], test_data=[test], id_column="offer_id", num_workers=0)
    rows_of_test = load_split(data, "test")
    settings = {"batch_size": 32, "num_workers": 0}
    offers = embed_dataset(model, processor, rows_of_test, Accelerator(cpu=True), **settings)
    images = offers.image_embeds if checkpoint else torch.nn.functional.normalize(offers.image_features, dim=1)
    of_product: dict[int, list[int]] = {}
    for row, catalog in enumerate(offers.catalog_ids.tolist()):
        of_product.setdefault(catalog, []).append(row)
    products = list(of_product.values())
    queries = torch.tensor([rows[-1] for rows in products if len(rows) >= 4])
    wanted = torch.tensor([place for place, rows in enumerate(products) if len(rows) >= 4])
    by_query: dict[str, Any] = {"photograph": images} | ({"title": offers.text_embeds} if checkpoint else {})
    print(f"{len(queries)} offers sought among {len(products)} products\n")
    print("| query | photographs of a product | recall@1 | recall@5 |\n|---|--:|--:|--:|")
    for query, vectors in by_query.items():
        for number in (1, 2, 3):
            # Never that of the query. All products have as many, as far as they have offers.
            chosen = [(place, row) for place, rows in enumerate(products) for row in (rows[:-1] or rows)[:number]]
            owners, rows = torch.tensor(chosen).T
            gallery = pool_vectors(images[rows], owners, torch.ones(len(owners)), len(products))
            ranks = (vectors[queries] @ gallery.T).topk(5).indices == wanted[:, None]
            print(f"| {query} | {number} | {ranks[:, 0].float().mean():.3f} | {ranks.any(1).float().mean():.3f} |")


def main() -> None:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["texts", "images"])
    parser.add_argument("--checkpoint", help="folder or Hub id of an e-CLIP checkpoint; untrained towers if not given")
    arguments = parser.parse_args()
    {"texts": compare_texts, "images": compare_images}[arguments.what](arguments.checkpoint)


if __name__ == "__main__":
    main()
