"""Which negatives, which loss, which sources? Trains variants of `marketplace.yaml`, and prints one table.

    python tests/benchmarks/compare_variants.py --output outputs/variants
    python tests/benchmarks/compare_variants.py --variants plain "mates negative" --seeds 0 1
    python tests/benchmarks/compare_variants.py --finished   # the table of the runs that are done by now

The image tower is frozen and its vectors are kept on disk, so that a run takes minutes; titles and both projections
are trained. Runs that are done are not done again. What is measured is told in `out_of_domain.py`. A negative's weight
multiplies its exponential in the softmax; what is weighed here and not in the package did not win.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import out_of_domain
import pyarrow.parquet as pq
import torch
import yaml
from compare_methods import table
from out_of_domain import SHARED, Vectors, load, matching, probe_classes, read, retrieval
from sides import ROOT
from transformers import AutoModel, AutoTokenizer

from modeling_eclip import ContrastiveObjective, EClipModel, EClipProcessor
from modeling_eclip.modeling_eclip import normalize
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.train import TrainArguments
from training.data import loaders
from training.data.similar_titles import SIMILAR_ROWS, similar_rows
from training.engine import contrastive_training, loop, step

CONFIG = ROOT / "training" / "configs" / "marketplace.yaml"
SOURCES = dict(
    zip(("fashion", "amazon", "pricerunner"), yaml.safe_load(CONFIG.read_text())["train_data"], strict=True)
)
WEIGHTS = {"fashion": 1.0, "amazon": 1.0, "pricerunner": 0.5}  # offers of each come about as often as of the others
FROZEN = ["--freeze", r"^vision_model\."]
COMMON = [
    *FROZEN, r"^text_model\.embeddings\.", "--cache_frozen_towers", "true", "--text_learning_rate", "3e-4",
    "--validation_data", "../shared/data/flipkart/validation.parquet", "--test_data", "--overwrite_output_dir", "true",
    "--num_workers", "0", "--save_every_samples", "1000000", "--eval_every_samples", "1000000",
    "--projection_epochs", "0", "--teacher", "", "--teacher_modalities", "text", "image", "--teacher_weight", "1",
    "--batch_size", "128",  # a run is short: more steps count for more than more negatives
]  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Args:
        arguments: What is given to `train.py` beside the configuration.
        weigh: Takes the cosines of titles by the untrained tower and whether categories are the same, both `(B, B)`,
            and returns the weights of negatives.
        similar: Takes what is known of the offers, and their catalogs, and returns the rows that come into a batch
            beside each.
        sources: The sources that are trained on; all if not given. The samples are their share of the run's.
        weights: How often the offers of sources come, where it differs.
        half: Whether the title tower has every other of its blocks alone.
        bias: The bias of a sigmoid at the start, where not that of the package.
    """

    arguments: list[str] = field(default_factory=list)
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    similar: Callable[["Facts", np.ndarray], np.ndarray] | None = None
    sources: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    half: bool = False
    bias: float | None = None


@dataclass
class Facts:
    """What variants know of the training offers, a row each."""

    categories: np.ndarray
    vectors: torch.Tensor
    places: dict[str, int]


def nearest_titles(facts: Facts, catalog_ids: np.ndarray) -> np.ndarray:
    """Return the offers of other catalogs that are nearest by the untrained title tower, `(N, SIMILAR_ROWS)`."""
    found = []
    catalogs = torch.from_numpy(np.where(catalog_ids < 0, -1 - np.arange(len(catalog_ids)), catalog_ids))
    for start in range(0, len(catalogs), 1024):
        rows = slice(start, start + 1024)
        cosines = facts.vectors[rows] @ facts.vectors.T
        cosines[catalogs[rows, None] == catalogs] = -1
        found.append(cosines.topk(SIMILAR_ROWS).indices)
    return torch.cat(found).numpy()


def same_category(facts: Facts, catalog_ids: np.ndarray) -> np.ndarray:
    """Return random offers of the same category and another catalog, `(N, SIMILAR_ROWS)`, -1 where there are none."""
    generator = np.random.default_rng(0)
    found = np.full((len(catalog_ids), SIMILAR_ROWS), -1)
    for category in np.unique(facts.categories):
        members = np.flatnonzero(facts.categories == category)
        drawn = generator.choice(members, (len(members), SIMILAR_ROWS))
        is_mate = (catalog_ids[drawn] == catalog_ids[members, None]) & (catalog_ids[drawn] >= 0)
        found[members] = np.where(is_mate | (drawn == members[:, None]), -1, drawn)
    return found


TEACHER = "the teacher"  # replaced by its folder
HARD = ["--similar_share", "0.25"]
PROJECTIONS_FIRST = ["--projection_epochs", "5"]
VARIANTS = {
    "plain": Variant(),
    "mates masked": Variant(["--catalog_mates", "masked"]),
    "mates negative": Variant(["--catalog_mates", "negative"]),
    "labels of plain CLIP": Variant(
        ["--catalog_mates", "negative", "--mates_share", "0", "--mate_contrast_weight", "0"]
    ),
    "projections first": Variant(PROJECTIONS_FIRST),
    "projections first, titles held to the start": Variant(
        [*PROJECTIONS_FIRST, "--teacher", "start", "--teacher_modalities", "text"]
    ),
    "no contrast within a modality": Variant(["--mate_contrast_weight", "0"]),
    "similar titles count less": Variant(weigh=lambda cosines, same: (2 - 2 * cosines).clamp(0.05, 1)),
    "same category counts half": Variant(weigh=lambda cosines, same: 1 - 0.5 * same.float()),
    "hard: shared rare n-grams": Variant(HARD),
    "hard: nearest titles": Variant(HARD, similar=nearest_titles),
    "hard: same category": Variant(HARD, similar=same_category),
    "sigmoid": Variant(["--loss", "sigmoid"]),
    "sigmoid, bias of -10": Variant(["--loss", "sigmoid"], bias=-10.0),
    "half the title tower": Variant(half=True),
    "half the title tower, with a teacher": Variant(["--teacher", TEACHER], half=True),
    "titles at a third of the rate": Variant(["--text_learning_rate", "1e-4"]),
    "titles at a tenth of the rate": Variant(["--text_learning_rate", "3e-5"]),
    "titles frozen": Variant([*FROZEN, r"^text_model\.", "--word_dropout", "0", "--shuffle_probability", "0"]),
    "listings twice, electronics half as often": Variant(weights={"amazon": 2.0, "pricerunner": 0.25}),
    "fashion alone": Variant(sources=("fashion",)),
    "amazon alone": Variant(sources=("amazon",)),
    "pricerunner alone": Variant(["--cache_frozen_towers", "false"], sources=("pricerunner",)),  # there are no images
}
ROWS = {"fashion": 10_000, "amazon": 9_604, "pricerunner": 10_568}  # visits of an epoch, for shares of the samples


class WeighedObjective(ContrastiveObjective):
    """The configured loss of one rank in its dense form, with weights of negatives."""

    def __call__(
        self, text_embeds, image_embeds, logit_scale, catalog_ids=None, *, has_text=None, has_image=None, **_
    ):  # noqa: ANN001, ANN003, ANN204
        """Compute the loss; as [`ContrastiveObjective`] does."""
        rows = torch.arange(len(text_embeds))
        ids = torch.where(catalog_ids < 0, -1 - rows, catalog_ids)
        is_mate = ids[:, None] == ids
        weights = CURRENT.weights()
        scale = logit_scale.exp()
        has = [torch.ones(len(rows), dtype=torch.bool) if one is None else one for one in (has_text, has_image)]
        across = scale * text_embeds @ image_embeds.T + weights.where(~is_mate, 1.0).log()
        terms = [
            self._cross_entropy(across, is_mate, has[0], has[1]),
            self._cross_entropy(across.T, is_mate, has[1], has[0]),
        ]
        loss = sum(terms) / 2
        for embeds, exists in zip((text_embeds, image_embeds), has, strict=True):
            among = scale * embeds @ embeds.T + weights.where(~is_mate, 1.0).log()
            among = among.masked_fill(torch.eye(len(rows), dtype=torch.bool), -1e4)
            is_other = is_mate & ~torch.eye(len(rows), dtype=torch.bool)
            loss = loss + self.mate_contrast_weight / 2 * self._cross_entropy(among, is_other, exists, exists)
        return loss

    @staticmethod
    def _cross_entropy(
        logits: torch.Tensor, is_target: torch.Tensor, asked: torch.Tensor, answering: torch.Tensor
    ) -> torch.Tensor:
        targets = (is_target & answering & asked[:, None]).float()
        has_target = targets.any(dim=1)
        if not has_target.any():
            return logits.sum() * 0
        log_shares = logits.masked_fill(~answering, -1e4).log_softmax(dim=1)
        return -((targets * log_shares).sum(1)[has_target] / targets.sum(1)[has_target]).mean()


class Current:
    """The variant that is trained, for what is called from within the training."""

    variant: Variant
    facts: Facts | None = None
    folder: Path
    row_ids: list[str]

    def weights(self) -> torch.Tensor:
        """Return the weights of the batch's negatives."""
        assert self.facts is not None and self.variant.weigh is not None
        rows = [self.facts.places[row_id] for row_id in self.row_ids]
        vectors, categories = self.facts.vectors[rows], torch.from_numpy(self.facts.categories[rows])
        return self.variant.weigh(vectors @ vectors.T, categories[:, None] == categories)

    def learn(self, products: Any) -> None:
        """Find out what the variant has to know of the training offers."""
        if self.variant.weigh is None and self.variant.similar is None:
            return
        titles = products["title"][:]
        path = self.folder / "title_vectors.npy"
        if not path.exists():
            model, processor = load("start")
            np.save(path, out_of_domain.encode(model, processor, {"title": titles})["towers"]["text"])
        categories = categories_of()
        names = [categories.get(title, f"alone {row}") for row, title in enumerate(titles)]
        places = {row_id: row for row, row_id in enumerate(products["row_id"][:])}
        vectors = torch.from_numpy(np.load(path))
        self.facts = Facts(np.unique(names, return_inverse=True)[1], vectors, places)


CURRENT = Current()


def categories_of() -> dict[str, str]:
    """Return the category of each title of the training files."""
    found = {}
    columns = {"fashion": "category", "amazon_apparel": "product_type", "pricerunner": "category"}
    for name, column in columns.items():
        table = pq.read_table(SHARED / "data" / name / "train.parquet", columns=["title", column]).to_pydict()
        for title, value in zip(table["title"], table[column], strict=True):
            found[title] = f"{name} {value[:2] if isinstance(value, list) else value}"
    return found


class WatchedLoop(contrastive_training.TrainingLoop):
    """The training loop, which first tells the variant what the offers are."""

    def __init__(self, model: Any, processor: Any, train_products: Any, *rest: Any, **named: Any) -> None:
        """Learn of the offers."""
        CURRENT.learn(train_products)
        if CURRENT.variant.bias is not None:
            torch.nn.init.constant_(model.logit_bias, CURRENT.variant.bias)
        super().__init__(model, processor, train_products, *rest, **named)


class WatchedStep(step.TrainingStep):
    """A step which tells the variant what the batch is of."""

    def backward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Contrast the rows."""
        CURRENT.row_ids = batch["row_ids"]
        return super().backward(batch)


def encode(model: EClipModel, processor: EClipProcessor, name: str, titles: list[str]) -> Vectors:
    """Encode a set's titles; its images, which the frozen tower encodes once, are read from the output folder."""
    vectors = out_of_domain.encode(model, processor, {"title": titles})
    path = CURRENT.folder / f"images of {name.replace('/', ' ')}.npy"
    if "pricerunner" not in name:
        if not path.exists():
            start, plain = load("start")
            table = {"title": titles, "image": read(name, ["image"])["image"]}
            np.save(path, out_of_domain.encode(start, plain, table)["towers"]["image"])
        # The projection, which has no bias, does not ask for the vectors' lengths.
        pooled = torch.from_numpy(np.load(path))
        with torch.no_grad():
            projected = normalize(model.visual_projection(pooled)).numpy()
        for kind, found in (("towers", pooled.numpy()), ("embeds", projected)):
            both = np.concatenate([vectors[kind]["text"], found], axis=1) / np.sqrt(2)
            vectors[kind] |= {"image": found, "both": both}
    return vectors


def measure(model: EClipModel, processor: EClipProcessor) -> dict[str, float]:
    """Measure a model on all sets."""
    found = {}
    for name in ("flipkart", "amazon_apparel/test", "fashion/test", "offers/test", "pricerunner/test"):
        columns = {"flipkart": ["category"], "fashion/test": ["catalog_id"], "amazon_apparel/test": ["catalog_id"]}
        is_matched = "offers" in name or "pricerunner" in name
        table = read(name, ["title", *(["offer_id"] if is_matched else columns[name])])
        vectors = encode(model, processor, name, table["title"])
        if name == "flipkart":
            measured = probe_classes(vectors, [path[0] for path in table["category"]])
        elif is_matched:
            measured = matching(vectors, table["offer_id"], f"{name}_pairs")
        else:
            measured = retrieval(vectors, table["catalog_id"])
        found |= {f"{name.split('/')[0]}: {metric}": one.metric(one.outcomes) for metric, one in measured.items()}
    return found


def half_title_tower(folder: Path) -> str:
    """Write the title tower with every other of its blocks, and return its folder."""
    whole = str(SHARED / "towers" / "minilm-l6")
    tower = AutoModel.from_pretrained(whole, dtype=torch.float32)
    tower.encoder.layer = tower.encoder.layer[::2]
    tower.config.num_hidden_layers = len(tower.encoder.layer)
    tower.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return str(folder)


def train(arguments: list[str]) -> Any:
    """Train as `train.py` does with these arguments."""
    return contrastive_training.train(*parse_arguments((ModelArguments, DataArguments, TrainArguments), arguments))


def train_data(variant: Variant) -> list[str]:
    """Return the sources of a variant, as `--train_data` takes them."""
    weights = WEIGHTS | variant.weights
    return [json.dumps(SOURCES[source] | {"weight": weights[source]}) for source in variant.sources or SOURCES]


def run(name: str, seed: int, samples: int, folder: Path) -> None:
    """Train and measure one variant with one seed, unless that was done."""
    result = folder / f"{name}, seed {seed}.json"
    if result.exists():
        return
    CURRENT.variant, CURRENT.folder, CURRENT.facts = VARIANTS[name], folder, None
    variant = CURRENT.variant
    contrastive_training.TrainingLoop = WatchedLoop
    loop.TrainingStep = WatchedStep
    step.ContrastiveObjective = ContrastiveObjective if variant.weigh is None else WeighedObjective
    loaders.similar_rows = (
        similar_rows if (similar := variant.similar) is None
        else lambda titles, catalog_ids, number: similar(CURRENT.facts, catalog_ids)
    )  # fmt: skip
    arguments_of_teacher = ["--config", str(CONFIG), *COMMON, "--train_data", *train_data(VARIANTS["plain"])]
    arguments_of_teacher += ["--max_samples", str(2 * samples), "--seed", "0"]
    if variant.sources:
        samples = samples * sum(ROWS[source] for source in variant.sources) // sum(ROWS.values())
    arguments = ["--config", str(CONFIG), *COMMON, "--train_data", *train_data(variant), *variant.arguments]
    arguments += ["--seed", str(seed), "--max_samples", str(samples)]
    if TEACHER in arguments:
        teacher = str(folder / "teacher")
        if not (folder / "teacher" / "report.json").exists():
            train([*arguments_of_teacher, "--output_dir", teacher])
        arguments[arguments.index(TEACHER)] = teacher
    if variant.half:
        arguments += ["--text_tower", half_title_tower(folder / "half title tower")]
    trained = train([*arguments, "--output_dir", str(folder / "model")])
    model, processor = load(str(folder / "model"))
    result.write_text(json.dumps(measure(model, processor) | {"seconds": trained.seconds}, indent=2) + "\n")


COLUMNS = {
    "amazon_apparel: recall@1": "amazon recall@1",
    "amazon_apparel: recall@10": "amazon recall@10",
    "fashion: recall@10": "fashion recall@10",
    "pricerunner: AP, towers, text": "pricerunner AP, titles",
    "offers: AP, towers, text": "offers AP, titles",
    "offers: AP, embeds, both": "offers AP, both, projected",
    "flipkart: probe, towers, text": "flipkart, titles",
    "flipkart: probe, embeds, both": "flipkart, both, projected",
}


def read_results(folder: Path, names: list[str], seeds: list[int]) -> dict[str, list[dict[str, float]]]:
    """Return what was measured of each variant that has a run, a seed after the other."""
    found = {
        name: [
            json.loads(path.read_text()) for seed in seeds if (path := folder / f"{name}, seed {seed}.json").exists()
        ]
        for name in names
    }
    return {name: runs for name, runs in found.items() if runs}


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "variants", help="where results go")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=10_240, help="samples of a run on all sources")
    parser.add_argument("--finished", action="store_true", help="run nothing; report what is done")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed in () if arguments.finished else arguments.seeds:
        for name in arguments.variants:
            run(name, seed, arguments.samples, arguments.output)
    results = read_results(arguments.output, arguments.variants, arguments.seeds)
    print(table(results, COLUMNS) if results else f"no run of these is done in {arguments.output}")


if __name__ == "__main__":
    main()
