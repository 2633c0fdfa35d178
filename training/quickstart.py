"""The main job end to end on generated products: generate, train, measure, load in a fresh process, look.

`make quickstart` runs it. Everything goes to `outputs/quickstart`.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

from modeling_eclip import EClipModel, EClipProcessor, load_product_image
from modeling_eclip.plots import draw_neighbours
from modeling_eclip.toy import choose_sheet_rows, draw_catalog_sheet
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.train import TrainArguments
from training.data.read_tables import Products
from training.engine.build import build_model, load_split
from training.retrieval.offer_embeddings import OfferEmbeddings, embed_dataset
from training.retrieval.retrieval_metrics import retrieval_metrics

CONFIG = Path(__file__).parent / "configs" / "quickstart.yaml"
NUM_QUERIES = 8
NUM_NEIGHBOURS = 6

# What a user without the package does: the code comes with the checkpoint.
WITHOUT_PACKAGE = """
import sys, torch
from transformers import AutoModel, AutoProcessor
folder, title = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    embeds = model(**processor(text=[title], return_tensors="pt")).text_embeds
assert "modeling_eclip" not in sys.modules, "the package was imported"
print(type(model).__name__, *(f"{value:.6f}" for value in embeds[0].tolist()))
"""


def main(argv: list[str]) -> None:
    """Run all steps.

    Args:
        argv: Further arguments of `training/train.py`, such as `--num_epochs 2`.
    """
    started = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()
    argv = ["--config", str(CONFIG), *argv]
    model_arguments, data, arguments = parse_arguments((ModelArguments, DataArguments, TrainArguments), argv)
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    print("1. generating products", flush=True)
    test_products = load_split(data, "test")
    draw_catalog_sheet(choose_sheet_rows(test_products, limit=64), output_dir / "catalogue.png")

    print("2. training", flush=True)
    script = Path(__file__).parent / "train.py"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "2"]
    training = subprocess.run([*launch, str(script), *argv, "--overwrite_output_dir", "true"])
    if training.returncode != 0:
        sys.exit(training.returncode)  # its error is printed above

    print("3. loading the checkpoint in a fresh process, by its own code", flush=True)
    model, processor = EClipModel.from_pretrained(output_dir), EClipProcessor.from_pretrained(output_dir)
    check_fresh_process(model, processor, output_dir, test_products[0]["title"])

    print("4. searching among offers that training has not seen", flush=True)
    untrained = build_model(model_arguments, processor.tokenizer, seed=arguments.seed).eval()
    before, after = (
        embed_dataset(candidate, processor, test_products, Accelerator(), batch_size=None, num_workers=0)
        for candidate in (untrained, model)
    )
    draw_search(test_products, after, output_dir / "neighbours.png")
    print_metrics(retrieval_metrics(before), retrieval_metrics(after), len(after.titles))
    print(f"\nimages: {output_dir}/catalogue.png, history.png, neighbours.png")
    print(f"done in {time.perf_counter() - started:.0f} s")


def draw_search(products: Products, offers: OfferEmbeddings, path: Path) -> None:
    """Draw some titles with the images nearest to each."""
    rows: list[tuple[str, Any, list[tuple[Any, bool]]]] = []
    for query in range(0, len(offers.titles), max(1, len(offers.titles) // NUM_QUERIES))[:NUM_QUERIES]:
        similarity = offers.image_embeds @ offers.text_embeds[query]
        images = []
        for nearest in similarity.topk(min(NUM_NEIGHBOURS, len(similarity))).indices.tolist():
            catalog_id = offers.catalog_ids[nearest]
            is_found = nearest == query or bool(catalog_id >= 0 and catalog_id == offers.catalog_ids[query])
            image = products[offers.positions[nearest]]["image"]
            images.append((load_product_image(image), is_found))
        own = load_product_image(products[offers.positions[query]]["image"])
        rows.append((offers.titles[query], own, images))
    draw_neighbours(rows, path)


def print_metrics(before: dict[str, float], after: dict[str, float], num_offers: int) -> None:
    """Print recall beside chance and beside the untrained model's."""
    print(f"\nthe image of a title, among the images of {num_offers} offers of the test split, unseen in training")
    print(f"{'':12}{'chance':>10}{'untrained':>12}{'trained':>10}")
    for k in (1, 5, 10):
        name = f"text_to_image_recall@{k}"
        print(f"recall@{k:<5}{after[f'chance@{k}']:>10.3f}{before[name]:>12.3f}{after[name]:>10.3f}")


def check_fresh_process(model: EClipModel, processor: EClipProcessor, folder: Path, title: str) -> None:
    """Load a checkpoint without the package, and compare one embedding with the package's.

    Raises:
        RuntimeError: the two differ.
    """
    with torch.no_grad():
        embeds = model.eval()(**processor(text=[title], return_tensors="pt")).text_embeds[0]
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(folder.resolve()), title]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    name, *values = output.split()
    theirs = torch.tensor([float(value) for value in values])
    if not torch.allclose(embeds, theirs, atol=2e-6):
        raise RuntimeError(
            f"{folder} gives other embeddings in a fresh process, by up to {(embeds - theirs).abs().max()}"
        )
    print(f"   {name} from {folder}: the same embeddings")


if __name__ == "__main__":
    main(sys.argv[1:])
