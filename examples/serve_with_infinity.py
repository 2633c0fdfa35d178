"""A CLIP or SigLIP model served by infinity-emb, which has none of this package; its vectors compared with ours.

    python -m venv infinity  # the server's own environment, with Pillow as here: its releases resize differently
    infinity/bin/pip install "infinity-emb[server,torch]==0.0.78" aiohttp torch==2.13.0 pillow==12.3.0
    python examples/serve_with_infinity.py outputs/eclip infinity/bin/python outputs/served

A model to try it with: `python examples/continue_from_clip.py openai/clip-vit-base-patch32 outputs/eclip`. SigLIP 2 in
its flexible form (NaFlex) is not among what infinity serves.
"""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import torch
from PIL import Image

from modeling_eclip import EClipModel, EClipProcessor, embed_products
from modeling_eclip.export import save_stock, stock_model, stock_processor
from modeling_eclip.toy import toy_catalog

OPTIONS = "--host 127.0.0.1 --device cpu --dtype float32 --no-bettertransformer --no-model-warmup --log-level error"


def export(model: EClipModel, processor: EClipProcessor, folder: str) -> None:
    """Save a stock model; infinity cuts titles at `max_length` of its configuration, or at 20 tokens without it."""
    save_stock(stock_model(model), stock_processor(processor, model.config), folder)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": processor.text_kwargs["max_length"]}))


@contextlib.contextmanager
def served(folder: str, python: str) -> Iterator[tuple[str, int]]:
    """Start the server on this machine's own address, give that when it answers, and stop it in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = free.getsockname()
    command = [python, "-m", "infinity_emb.cli", "v2", *OPTIONS.split(), "--port", str(where[1])]
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with subprocess.Popen([*command, "--model-id", folder], env=settings) as server:
        try:
            listens = False
            while not listens:
                if server.poll() is not None:
                    sys.exit("the server ended before it answered; what it said is above")
                time.sleep(0.2)
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(where):
                    listens = True
            yield where
        finally:
            server.terminate()


def ask(where: tuple[str, int], modality: str, products: list[str]) -> torch.Tensor:
    """Return the server's vectors of titles ("text") or of images as addresses ("image"), 32 at most."""
    body = json.dumps({"modality": modality, "input": products})
    connection = HTTPConnection(*where)
    connection.request("POST", "/embeddings", body, {"Content-Type": "application/json"})
    answer = json.load(connection.getresponse())
    connection.close()
    return torch.tensor([row["embedding"] for row in answer["data"]]) if "data" in answer else sys.exit(str(answer))


def address(image: Image.Image) -> str:
    """Return an image as an address that holds it; infinity takes those of the web, too."""
    image.save(file := io.BytesIO(), format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def main(checkpoint: str, python: str, folder: str) -> dict[str, float]:
    """Return how far the served vectors of titles and of images are from ours, in the number that differs most."""
    model, processor = EClipModel.from_pretrained(checkpoint), EClipProcessor.from_pretrained(checkpoint)
    export(model, processor, folder)
    titles, images = (toy_catalog(800)["test"][:32][name] for name in ("title", "image"))  # your own products
    ours = embed_products(model, processor, titles, images)
    with served(folder, python) as server:
        images = [address(image) for image in images]
        theirs = {"text_embeds": ask(server, "text", titles), "image_embeds": ask(server, "image", images)}
    differences = {name: (theirs[name] - ours[name]).abs().max().item() for name in ours}
    print(f"{len(titles)} products, at most", *(f"{value:.1e} in {name}" for name, value in differences.items()))
    return differences


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 4 else sys.exit(__doc__)
