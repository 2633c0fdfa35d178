"""What several texts and images of an offer are worth: `offer_fields.py texts`, `images` and `drawn`.

`texts`: categories of `flipkart` from titles, from descriptions, from both joined and from both averaged, by a
logistic regression on the vectors of the text tower, in five folds over all rows. `images`: the product of an offer's
photograph (and, with `--checkpoint`, of its title) among all products of the test split of `offers`, each of which has
the photographs of one, two or three of its other offers, averaged. Two minutes on a CPU each.

`drawn`: the image of an offer of `flipkart` that training has not seen, found for its title, its description or both
joined, after a training on titles, on descriptions, on joined texts, or on one that is drawn at each visit. The image
tower is frozen, and so is the lower half of the title tower; three seeds, some 20 minutes.
"""

import argparse
import tempfile
from collections.abc import Sequence
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
from modeling_eclip.modeling_eclip import normalize
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.train import TrainArguments
from training.data.fields import row_texts
from training.engine.build import load_split
from training.engine.contrastive_training import train
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


# How often each text is drawn in training.
DRAWN = {
    "titles": {"title": 1, "description": 0, "joined": 0},
    "descriptions": {"title": 0, "description": 1, "joined": 0},
    "joined": {"title": 0, "description": 0, "joined": 1},
    "one of the three": {"title": 1, "description": 1, "joined": 1},
}


def compare_drawn(seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Print how often an offer's image is found for each of its texts, by the texts that training has seen."""
    flipkart = f"{SHARED}/data/flipkart"
    held_out = DataArguments(
        test_data=[f"{flipkart}/{split}.parquet" for split in ("validation", "test")],
        text_columns=["title", "description"],
        num_workers=0,
    )
    rows = load_split(held_out, "test")
    texts = [row_texts(row) for row in rows]
    kinds = ("title", "description", "joined")
    print(f"{len(texts)} images; recall@1 / recall@5, mean and standard deviation of {len(seeds)} seeds\n")
    print(f"| training on | {' | '.join(f'found for the {kind}' for kind in kinds)} |\n|---|{'---|' * len(kinds)}")
    images = None
    for name, weights in DRAWN.items():
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        for seed in seeds:
            model, processor = _train_on_drawn(f"{flipkart}/train.parquet", weights, seed)
            if images is None:  # of the frozen tower, the same in all runs
                offers = embed_dataset(model, processor, rows, Accelerator(cpu=True), batch_size=32, num_workers=0)
                images = offers.image_features
            with torch.no_grad():
                image_embeds = normalize(model.visual_projection(images))
                for place, kind in enumerate(kinds):
                    vectors = tower_vectors(model, processor, [of_row[place][0] for of_row in texts])
                    nearest = (normalize(model.text_projection(vectors)) @ image_embeds.T).topk(5).indices
                    is_own = nearest == torch.arange(len(texts))[:, None]
                    found[kind].append(np.array([is_own[:, 0].float().mean(), is_own.any(1).float().mean()]))
        cells = []
        for of_seeds in found.values():
            means, spreads = np.mean(of_seeds, axis=0), np.std(of_seeds, axis=0, ddof=1)
            cells.append(" / ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _train_on_drawn(file: str, weights: dict[str, int], seed: int) -> tuple[EClipModel, EClipProcessor]:
    """Train as `train.py` does, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        validation = file.replace("train.", "validation.")
        words = ["--train_data", file, "--validation_data", validation, "--num_workers", "0"]
        words += ["--vision_tower", TOWERS[0], "--text_tower", TOWERS[1], "--image_size", "128"]
        words += ["--max_title_length", "64", "--cache_frozen_towers", "true", "--num_epochs", "5"]
        words += ["--freeze", r"^vision_model\.", r"^text_model\.(embeddings|encoder\.layer\.[0-2])\."]
        words += ["--text_columns", *(f"{column}={weight}" for column, weight in weights.items())]
        words += ["--batch_size", "64", "--learning_rate", "1e-3", "--tower_learning_rate", "3e-4"]
        words += ["--seed", str(seed), "--output_dir", folder]
        train(*parse_arguments((ModelArguments, DataArguments, TrainArguments), words))
        return models(folder)


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["texts", "images", "drawn"])
    parser.add_argument(
        "--checkpoint", help="folder or Hub id of an e-CLIP checkpoint; untrained towers if not given; not for drawn"
    )
    arguments = parser.parse_args()
    if arguments.what == "drawn":
        compare_drawn()
    else:
        {"texts": compare_texts, "images": compare_images}[arguments.what](arguments.checkpoint)


if __name__ == "__main__":
    main()
