"""Time of a stock export that infinity-emb serves, and of this package on the same products, side by side.

    OMP_NUM_THREADS=1 python tests/benchmarks/served_speed.py --infinity_python infinity/bin/python

`examples/serve_with_infinity.py` says how the server's environment is made. The model is a CLIP of ViT-B/32's size,
with random weights; titles have 18 tokens, images are JPEG files of 500 px. Server and package answer in turns:
single products for the latency, 32 together for the throughput. Both decode the images, both have as many threads as
`OMP_NUM_THREADS` says. Ours is called in this process, theirs over HTTP, which is part of its time.
"""

import argparse
import base64
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from examples.serve_with_infinity import ask, export, served
from modeling_eclip import EClipConfig, EClipModel, EClipProcessor, embed_products
from modeling_eclip.toy import toy_catalog
from training.data.files import write_json

BATCH, LETTERS, IMAGE_SIZE = 32, 16, 500


def build() -> tuple[EClipModel, EClipProcessor]:
    """Return a model with the sizes that `CLIPConfig` has by default, and a tokenizer that knows letters alone."""
    letters = [letter + end for end in ("", "</w>") for letter in sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = [*letters, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
    text = {"model_type": "clip_text_model", "eos_token_id": tokenizer.eos_token_id}
    config = EClipConfig(
        vision_config={"model_type": "clip_vision_model"}, text_config=text, projection_dim=512, text_pooling="pooler"
    )
    torch.manual_seed(0)
    return EClipModel(config).eval(), EClipProcessor(CLIPImageProcessorPil(), tokenizer)


def products(number: int) -> dict[str, list]:
    """Return titles, and images as the bytes of their files."""
    rows = toy_catalog(20 * number)["test"][:number]
    files = []
    for image in rows["image"]:
        image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE)).save(file := io.BytesIO(), format="JPEG", quality=90)
        files.append(file.getvalue())
    titles = [title.replace(" ", "")[:LETTERS].ljust(LETTERS, "x") for title in rows["title"]]
    return {"text": titles, "image": files}


def in_turns(sides: dict[str, Callable], batches: list[list]) -> dict[str, list[float]]:
    """Return the seconds of each side for each batch, after a batch that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number, batch in enumerate([batches[0], *batches]):
        for name, answer in sides.items():
            started = time.perf_counter()
            answer(batch)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--infinity_python", required=True, help="the interpreter that has infinity-emb")
    parser.add_argument("--requests", type=int, default=64, help="single products, and the same ones in batches of 32")
    parser.add_argument("--output", type=Path, default=Path("outputs/served_speed.json"))
    arguments = parser.parse_args()
    (model, processor), of = build(), products(arguments.requests)
    report: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        export(model, processor, folder)
        with served(folder, arguments.infinity_python) as where:
            for modality, rows in of.items():

                def theirs(some: list, modality: str = modality) -> torch.Tensor:
                    if modality == "image":
                        some = [f"data:image/jpeg;base64,{base64.b64encode(one).decode()}" for one in some]
                    return ask(where, modality, some)

                def ours(some: list, modality: str = modality) -> torch.Tensor:
                    given = {"titles" if modality == "text" else "images": some}
                    return embed_products(model, processor, **given)[f"{modality}_embeds"]

                sides = {"infinity": theirs, "ours": ours}
                cosine = (theirs(rows[:BATCH]) * ours(rows[:BATCH])).sum(dim=1).min().item()
                single = in_turns(sides, [[row] for row in rows])
                many = in_turns(sides, [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)])
                report[modality] = {
                    name: {
                        "ms_median": 1000 * float(np.median(single[name])),
                        "ms_95": 1000 * float(np.percentile(single[name], 95)),
                        "products_per_s": len(rows) / sum(many[name]),
                        "least_cosine": cosine,
                    }
                    for name in sides
                }
    for modality, sides_of in report.items():
        for name, numbers in sides_of.items():
            print(modality, name, *(f"{key} {value:.4g}" for key, value in numbers.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json({"threads": torch.get_num_threads(), **report}, arguments.output)


if __name__ == "__main__":
    main()
