"""Export the text tower of an e-CLIP checkpoint, and embed with nothing but ONNX Runtime or OpenVINO.

    python examples/export.py outputs/quickstart outputs/exported openvino

Needs `pip install -e ".[export]"`. In int8, compared on your own products: `python training/export.py --help`.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import openvino
import torch

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.export import export_part
from modeling_eclip.toy import toy_catalog


def load(folder: str, format: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Open the graph as any program would: neither torch nor this package has a part in it."""
    if format == "onnx":
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["text_embeds"], inputs)[0]
    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # else CPUs that can compute in bfloat16: the third digit differs
    compiled = openvino.Core().compile_model(f"{folder}/openvino_model.xml", "CPU", hint)
    return lambda inputs: compiled(inputs)["text_embeds"]


def main(checkpoint: str, folder: str, format: str = "openvino") -> float:
    """Export, load, embed some titles; print how far the embeddings are from PyTorch's, and how long both take."""
    model = EClipModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = EClipProcessor.from_pretrained(checkpoint)
    titles = list(toy_catalog(200)["test"]["title"])  # your own: any list of titles

    export_part(model, "text", format, processor(text=titles[:2], return_tensors="pt")).save_pretrained(folder)
    run = load(folder, format)

    inputs = processor(text=titles, return_tensors="pt")
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    for _ in range(3):  # the last turn counts
        started = time.perf_counter()
        with torch.no_grad():
            expected = model(**inputs).text_embeds.numpy()
        between = time.perf_counter()
        embeds = run(arrays)
        seconds = {"PyTorch": between - started, format: time.perf_counter() - between}
    difference, cosine = float(np.abs(embeds - expected).max()), float((embeds * expected).sum(axis=1).mean())
    print(f"{len(titles)} titles, embeddings of {embeds.shape[1]} dimensions")
    print(f"from PyTorch's: at most {difference:.1e} in a number, mean cosine {cosine:.6f}")
    print(f"PyTorch takes {seconds['PyTorch'] / seconds[format]:.1f} times as long as {format}")
    return difference


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
