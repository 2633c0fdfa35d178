"""Elsewhere than in this package: a real server and node, where they are, give the vectors that it gives."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import noise_image
from test_examples import EXAMPLES, load_example
from test_lora_pretraining import build

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.toy import toy_catalog

# Answers as infinity-emb 0.0.78 does (`transformer/vision/torch_vision.py` there), with the transformers of this
# environment; in `offset` the test says what it does wrong.
STAND_IN = """
import argparse, base64, http.server, io, json, os, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
parser = argparse.ArgumentParser()
for name in ("host", "port", "model-id"):
    parser.add_argument("--" + name)
given = parser.parse_known_args()[0]
offset = float(os.environ["offset"])
with open(given.model_id + "/config.json") as file:
    longest = json.load(file).get("max_length", 20)  # as transformers 4 reads it
model, processor = AutoModel.from_pretrained(given.model_id).eval(), AutoProcessor.from_pretrained(given.model_id)

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    @torch.no_grad()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows, kind = body["input"], body["modality"]
        if kind == "image":
            rows = [Image.open(io.BytesIO(base64.b64decode(row.split(",")[1]))) for row in rows]
        inputs = processor(**{"text" if kind == "text" else "images": rows}, padding=True, truncation=True,
                           max_length=longest, return_tensors="pt")
        vectors = (model.get_text_features if kind == "text" else model.get_image_features)(**inputs).pooler_output
        vectors = torch.nn.functional.normalize(vectors, dim=-1) + offset
        answer = json.dumps({"data": [{"embedding": vector} for vector in vectors.tolist()]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

http.server.HTTPServer((given.host, int(given.port)), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """An interpreter that has a module of infinity-emb's name; it keeps the server's process id in a file."""
    package = tmp_path / "path" / "infinity_emb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n")
    (package / "cli.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    monkeypatch.setenv("offset", "0")
    return sys.executable


def saved(kind, folder):
    """Save what the tests of stock classes build, as an e-CLIP checkpoint; titles have 30 tokens at most."""
    model, processor = build(kind)
    processor.max_title_length = 30  # more than the 20 at which a server cuts that is not told
    for part in (model, processor):
        part.save_pretrained(folder)
    return str(folder)


def ended(tmp_path):
    return not Path("/proc", (tmp_path / "pid").read_text()).exists()


# Vectors have length 1. Pixels of float32 are normalised in another order: 2e-5 were seen.
TOLERANCE = 1e-4


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_a_server_is_given_and_answers(kind, stand_in, tmp_path, capsys):
    titles = toy_catalog(800)["test"][:32]["title"]
    checkpoint = saved(kind, tmp_path / "checkpoint")
    lengths = EClipProcessor.from_pretrained(checkpoint)(text=titles)["attention_mask"]
    assert max(map(sum, lengths)) == 30, "some titles are cut"
    differences = load_example("serve_with_infinity").main(checkpoint, stand_in, str(tmp_path / "stock"))
    assert differences.keys() == {"text_embeds", "image_embeds"} and max(differences.values()) < TOLERANCE
    assert "32 products, at most" in capsys.readouterr().out
    assert ended(tmp_path)


def test_a_server_that_answers_otherwise_is_told_and_one_that_fails_is_named(stand_in, tmp_path, monkeypatch):
    example, checkpoint = load_example("serve_with_infinity"), saved("clip", tmp_path / "checkpoint")
    monkeypatch.setenv("offset", "0.01")
    differences = example.main(checkpoint, stand_in, str(tmp_path / "stock"))
    assert all(abs(value - 0.01) < TOLERANCE for value in differences.values())
    with pytest.raises(ZeroDivisionError), example.served(str(tmp_path / "stock"), stand_in):
        raise ZeroDivisionError  # by whoever asks it
    assert ended(tmp_path)
    monkeypatch.setenv("offset", "fails")
    with pytest.raises(SystemExit, match="the server ended before it answered"):
        example.main(checkpoint, stand_in, str(tmp_path / "stock"))


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_infinity_serves_the_vectors(kind, tmp_path):
    python = os.environ.get("INFINITY_PYTHON")
    if not python:
        pytest.skip("set INFINITY_PYTHON to an interpreter that has infinity-emb; examples/serve_with_infinity.py")
    checkpoint = saved(kind, tmp_path / "checkpoint")
    differences = load_example("serve_with_infinity").main(checkpoint, python, str(tmp_path / "stock"))
    assert max(differences.values()) < TOLERANCE


@pytest.fixture
def in_node(tmp_path):
    """The page beside the packages of node, which are looked for beside the file that is run."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    modules = Path(os.environ.get("NODE_MODULES") or EXAMPLES / "node_modules").absolute()
    if not shutil.which("node") or not (modules / "@huggingface" / "transformers").is_dir():
        pytest.skip("needs node, and its packages in NODE_MODULES; see examples/onnx_in_node.py")
    (tmp_path / "node_modules").symlink_to(modules)
    example = load_example("onnx_in_node")
    shutil.copy(EXAMPLES / "onnx_in_node.mjs", tmp_path)
    example.__file__ = str(tmp_path / "onnx_in_node.py")
    return example


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_node_gives_the_vectors(kind, in_node, tmp_path):
    checkpoint, folder = saved(kind, tmp_path / "checkpoint"), tmp_path / "onnx"
    cosines = in_node.main(checkpoint, str(folder))
    # Images of 96 px are resized there by another library than here: to cosines of .9999 and more.
    assert cosines["text_embeds"] > 1 - 1e-6 and cosines["image_embeds"] > 0.999
    # Images of the model's size, turned, and transparent: nothing is resized, so that only float32 rounds.
    processor = EClipProcessor.from_pretrained(checkpoint)
    size = 224 if kind == "clip" else 32
    images = [noise_image(seed, size, size) for seed in range(3)]
    images[1].putalpha(images[2].convert("L"))
    turned = images[2].getexif()
    turned[0x0112] = 6
    titles, files = ["a red shoe", "ab" * 50, ""], [str(tmp_path / f"{place}.png") for place in range(3)]
    rows = [{"title": title, "image": file} for title, file in zip(titles, files, strict=True)]
    for file, image in zip(files, images, strict=True):
        image.save(file, exif=turned if image is images[2] else b"")
    theirs = in_node.run_in_node(str(folder), rows)
    with torch.no_grad():
        inputs = processor(text=titles, images=files, return_tensors="pt")
        ours = EClipModel.from_pretrained(checkpoint).eval()(**inputs)
    torch.testing.assert_close(theirs["text_embeds"], ours["text_embeds"], rtol=0, atol=1e-5)
    # What is blended with white is rounded otherwise there, by a level: 4e-4 was seen; without white it is 0.12.
    for place, tolerance in enumerate((1e-5, 5e-3, 1e-5)):
        found, expected = (each["image_embeds"][place] for each in (theirs, ours))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
