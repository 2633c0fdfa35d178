"""A checkpoint in node, by transformers.js and without Python: titles and images give the vectors that they give here.

    pip install -e ".[export]"
    npm install --prefix examples --ignore-scripts @huggingface/transformers@4.3.2  # scripts fetch builds for GPUs
    python examples/onnx_in_node.py outputs/quickstart outputs/in_node

`onnx_in_node.mjs` is the part that runs in node; it takes what `training/export.py --format onnx` writes, too.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export import export_part
from modeling_eclip.toy import toy_catalog


def run_in_node(folder: str, products: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """Return the vectors of products, titles and files of images, as node computes them."""
    file = Path(folder) / "products.json"
    file.write_text(json.dumps(products))
    script = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(["node", str(script), folder, str(file)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("node could not do it; what it said is above")
    return {name: torch.tensor(vectors) for name, vectors in json.loads(done.stdout).items()}


@torch.no_grad()
def main(checkpoint: str, folder: str) -> dict[str, float]:
    """Export, compare, and return the least cosine of node's vector of a title or an image to ours."""
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    products = toy_catalog(400)["test"][:16]  # your own: titles and images
    inputs = processor(text=products["title"], images=products["image"], return_tensors="pt")
    export_part(model, "both", "onnx", inputs).save_pretrained(folder)
    for part in (processor, processor.image_processor):  # the latter's own file is the one that transformers.js reads
        part.save_pretrained(folder)
    files = [str(Path(folder) / f"{number}.png") for number in range(len(products["image"]))]
    for image, file in zip(products["image"], files, strict=True):
        image.save(file)
    rows = [{"title": title, "image": file} for title, file in zip(products["title"], files, strict=True)]
    theirs, ours = run_in_node(folder, rows), model(**inputs)
    cosines = {name: (vectors * ours[name]).sum(dim=1).min().item() for name, vectors in theirs.items()}
    print(f"{len(rows)} products:", ", ".join(f"cosine {value:.6f} of {name}" for name, value in cosines.items()))
    return cosines


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__)
