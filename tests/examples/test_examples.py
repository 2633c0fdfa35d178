"""The examples run, and print what they promise."""

import ast
import importlib.util
import json
import re
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT, TRANSFORMER, VIT, WITHOUT_PACKAGE
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, ViTImageProcessorPil

from modeling_eclip import (
    EClipConfig,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipModel,
    EClipProcessor,
    embed_products,
)
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.toy import toy_catalog

EXAMPLES = ROOT / "examples"


def load_example(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def tokenizer():
    return train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)


def test_every_example_fits_on_a_page_and_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tasks = {"classify", "cluster", "extract", "match", "recognise"}
    trained = {"lora_category", "lora_matching", "own_loop", "trainer_category"}
    others = {"continue_from_clip", "embed", "export", "search", "search_updates", "with_sentence_transformers"}
    elsewhere = {"lora_pretraining", "onnx_in_node", "serve_with_infinity", "with_mteb"}  # in files of their own
    assert names == others | tasks | trained | elsewhere
    for name in names:
        longest = 95 if name == "serve_with_infinity" else 60  # a server is started, asked and stopped there
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= longest, name
    assert len((EXAMPLES / "onnx_in_node.mjs").read_text().splitlines()) <= 60


def imported_by(path):
    """Return the packages that a script or a notebook imports, whole or from within."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {
        name.split(".")[0] for name in [*names, *(node.module for node in nodes if isinstance(node, ast.ImportFrom))]
    }


def test_examples_need_the_installed_package_alone():
    of_the_clone = {path.stem for path in (*ROOT.iterdir(), *EXAMPLES.iterdir())} - {"modeling_eclip"}
    for path in (*EXAMPLES.glob("*.py"), EXAMPLES / "first_steps.ipynb"):
        assert not imported_by(path) & of_the_clone, path
    for path in (EXAMPLES / "demo").glob("*.py"):  # it is deployed alone
        assert not imported_by(path) & {*of_the_clone, "modeling_eclip"}, path


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path_factory):
    """Run every example in a folder that is no clone, where `training` can't be imported."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for name in ["training", *(name for name in sys.modules if name.startswith("training."))]:
        monkeypatch.setitem(sys.modules, name, None)


def test_an_example_runs_as_a_script_in_a_process_of_its_own(checkpoint, tmp_path):
    script = WITHOUT_PACKAGE.replace('"modeling_eclip", ', "") + (
        "import runpy\nrunpy.run_path(sys.argv[1])['main'](*sys.argv[2:], num_offers=200)\n"
    )
    command = [sys.executable, "-c", script, str(EXAMPLES / "classify.py"), checkpoint, str(tmp_path / "head")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert " when learnt" in done.stdout


def save_checkpoint(folder, tokenizer=None):
    """Save a model that has learned nothing, with its processor."""
    torch.manual_seed(0)
    tokenizer = tokenizer or train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)
    text = {"model_type": "bert", **TRANSFORMER, "vocab_size": len(tokenizer)}
    config = EClipConfig(vision_config={"model_type": "vit", **VIT}, text_config=text, projection_dim=16)
    EClipModel(config).save_pretrained(folder)
    EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


@pytest.fixture
def checkpoint(tokenizer, tmp_path):
    save_checkpoint(tmp_path, tokenizer)
    return str(tmp_path)


def test_embed(checkpoint, capsys):
    load_example("embed").main(checkpoint)
    printed = capsys.readouterr().out
    assert "embeddings of 16 dimensions" in printed
    assert printed.count("-> image of:") == 5


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_search(checkpoint, tmp_path, capsys, kind):
    pytest.importorskip("lancedb")
    rows = list(toy_catalog(200)["test"])
    for number, row in enumerate(rows):
        row["image"].save(tmp_path / f"{number}.png")
    offers = datasets.Dataset.from_list([
        {"name": row["title"], "photo": f"{number}.png", "colour": row["colour"]} for number, row in enumerate(rows)
    ])  # fmt: skip
    path = str(tmp_path / f"offers.{kind}")
    {"parquet": offers.to_parquet, "csv": offers.to_csv, "jsonl": offers.to_json}[kind](path)
    load_example("search").main(checkpoint, str(tmp_path / "search"), path, "name", "photo")
    printed = capsys.readouterr().out
    assert f"{len(rows)} products in" in printed and printed.count("\n  0.") + printed.count("\n  1.") >= 5
    assert "this image, and:" in printed and "this image, colour" in printed
    assert (tmp_path / "search" / "found.png").stat().st_size > 20_000
    with pytest.raises(SystemExit, match="no row with a 'title' and an 'image'"):
        load_example("search").main(checkpoint, str(tmp_path / "search"), path)


def test_search_indexes_all_columns_that_the_model_was_trained_with(checkpoint, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    processor = EClipProcessor.from_pretrained(checkpoint)
    texts = [["name", 1.0], ["brand", 1.0], ["joined", 1.0]]
    processor.fields = {"text": texts, "image": [["photo", 3.0], ["more", 1.0]]}
    processor.save_pretrained(checkpoint)
    rows = list(toy_catalog(60)["train"])
    for number, row in enumerate(rows):
        row["image"].save(tmp_path / f"{number}.png")
    offers = [
        {"name": row["title"], "brand": "Acme", "photo": f"{number}.png", "more": [f"{(number + 1) % len(rows)}.png"]}
        for number, row in enumerate(rows)
    ]
    datasets.Dataset.from_list(offers).to_json(tmp_path / "offers.jsonl")
    load_example("search").main(checkpoint, str(tmp_path / "search"), str(tmp_path / "offers.jsonl"))
    table = lancedb.connect(tmp_path / "search").open_table("products").to_pandas().sort_values("row")
    model = EClipModel.from_pretrained(checkpoint).eval()
    titles = [f"{row['title']} | brand: Acme" for row in rows]
    alone = embed_products(model, processor, titles, [row["image"] for row in rows])
    images = torch.nn.functional.normalize(3 * alone["image_embeds"] + alone["image_embeds"].roll(-1, 0), dim=-1)
    expected = torch.nn.functional.normalize(alone["text_embeds"] + images, dim=-1)
    found = torch.tensor(np.stack(table["vector"].to_numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # other batches, hence to rounding
    assert table["title"].tolist() == [row["title"] for row in rows]


def shoes(ids, seed=0):
    vectors = torch.nn.functional.normalize(
        torch.randn(1000, 16, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    return [
        {"id": f"o'{one}", "title": f"shoe {one}", "colour": ("red", "blue")[one % 2], "vector": vectors[one].tolist()}
        for one in ids
    ]


@pytest.fixture
def shop(tmp_path):
    lancedb = pytest.importorskip("lancedb")
    return load_example("search_updates"), lancedb.connect(tmp_path / "shop").create_table("shop", shoes(range(400)))


def test_changes_of_products_are_found_at_once_and_after_they_are_indexed(shop):
    example, table = shop
    example.tend(table, index_from=300)
    example.change(table, shoes(range(399, 450), seed=1), sold=["o'7", "o'8"])
    assert table.count_rows() == 448  # 399 is written anew, 400 to 449 are new, two are gone
    (new,), (replaced,), (gone,) = (shoes([one], seed) for one, seed in ((449, 1), (399, 1), (7, 0)))
    for _ in range(2):
        for product in (new, replaced):
            assert example.find(table, product["vector"], product["title"])[0]["id"] == product["id"]
        ids = [row["id"] for row in example.find(table, gone["vector"], gone["title"], limit=448)]
        assert len(set(ids)) == len(ids) and not {"o'7", "o'8"} & {*ids}
        example.tend(table, index_from=300)


def test_an_id_twice_is_written_once_and_ids_may_be_numbers(shop):
    example, table = shop
    first, second = shoes([400]), shoes([400], seed=1)
    example.change(table, [*first, *second], sold=[])
    assert table.search().where("title = 'shoe 400'").to_list()[0]["vector"] == pytest.approx(second[0]["vector"])
    assert table.count_rows() == 401
    example.change(table, [{**first[0], "id": "7"}], sold=[])
    example.change(table, [], sold=(one for one in [7]))
    example.change(table, [], sold=(one for one in []))
    assert table.count_rows() == 401


def test_conditions_and_words_count_beside_vectors(shop):
    example, table = shop
    example.tend(table)
    (near,) = shoes([10])
    found = example.find(table, near["vector"], "201", limit=400)
    # First by the one ranking alone: the nearest vector, and the only title with this word.
    assert {row["id"] for row in found[:2]} == {"o'10", "o'201"}
    blue = example.find(table, near["vector"], "201", "colour = 'blue'", limit=5)
    assert len(blue) == 5 and {row["colour"] for row in blue} == {"blue"}
    assert "o'201" in {row["id"] for row in blue[:2]}  # beside the nearest of these


def test_vectors_are_indexed_where_they_are_many_and_anew_when_these_have_doubled(shop):
    example, table = shop

    def indexed():
        example.tend(table, index_from=420)
        (name,) = [index.name for index in table.list_indices() if index.columns == ["vector"]] or [None]
        return name and (name, table.index_stats(name).num_unindexed_rows)

    assert indexed() is None
    example.change(table, shoes(range(400, 450)), sold=[])
    assert indexed() == ("vector_450", 0)
    example.change(table, shoes(range(450, 800)), sold=[])
    assert indexed() == ("vector_450", 0)  # taken in, but the cells stay
    example.change(table, shoes(range(800, 1000)), sold=[])
    assert indexed() == ("vector_1000", 0)


def test_search_updates(checkpoint, tmp_path, capsys):
    pytest.importorskip("lancedb")
    load_example("search_updates").main(checkpoint, str(tmp_path), num_offers=200)
    words = re.fullmatch(r"(\d+) products; first was (.*), now is (.*)", capsys.readouterr().out.strip())
    assert int(words[1]) == len(toy_catalog(200)["test"]) - 1 and words[2] != words[3]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_export(checkpoint, tmp_path, capsys, format):
    for package in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(package)
    assert load_example("export").main(checkpoint, str(tmp_path / "exported"), format) < 1e-5
    assert "embeddings of 16 dimensions" in capsys.readouterr().out


def test_own_loop_learns(capsys):
    torch.manual_seed(0)
    assert load_example("own_loop").main(num_steps=30) < 4.0  # from log 64 = 4.16 and more
    assert "step  29" in capsys.readouterr().out


def test_continue_from_clip(tokenizer, tmp_path, capsys):
    text = {**TRANSFORMER, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.sep_token_id}
    source = CLIPModel(CLIPConfig(text_config=text, vision_config=VIT, projection_dim=24))
    source.save_pretrained(tmp_path / "clip")
    image_processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "clip")
    load_example("continue_from_clip").main(str(tmp_path / "clip"), str(tmp_path / "eclip"))
    printed = capsys.readouterr().out
    assert "projection_dim 24" in printed and "similarity" in printed
    assert EClipModel.from_pretrained(tmp_path / "eclip").config.projection_dim == 24


def test_classify_learns_and_saves_a_head(checkpoint, tmp_path, capsys):
    by_name, learnt = load_example("classify").main(checkpoint, str(tmp_path / "head"), num_offers=300)
    # A name says nothing to a model that has learned nothing; a probe of its vectors tells some of 30 categories.
    assert learnt > max(by_name, 2 / 30)
    printed = capsys.readouterr().out
    assert " when learnt" in printed and printed.count(" > ") >= 10
    head = EClipForCategoryClassification.from_pretrained(tmp_path / "head")
    assert len(head.config.category_paths) > 10


def test_extract_learns(checkpoint, capsys):
    accuracies = load_example("extract").main(checkpoint, num_offers=300)
    printed = capsys.readouterr().out
    assert accuracies["colour"] > 0.2, "of 10 colours, seen by towers that have learned nothing"
    assert printed.count("    by both: colour ") == 5 and "if it were always" in printed


def test_match_finds_some(checkpoint, capsys):
    precision, recall = load_example("match").main(checkpoint, num_offers=300)
    assert 0 < precision <= 1 and 0 < recall <= 1
    printed = capsys.readouterr().out
    assert "pairs compared of" in printed and "right " in printed


def test_cluster_draws_its_groups(checkpoint, tmp_path, capsys):
    score = load_example("cluster").main(checkpoint, str(tmp_path / "groups.png"), num_offers=300)
    assert -0.5 <= score <= 1 and "adjusted Rand index" in capsys.readouterr().out
    assert min(Image.open(tmp_path / "groups.png").size) > 100


def test_cluster_takes_a_head_that_has_learned_to_score_pairs(checkpoint, tmp_path):
    head = EClipForProductClustering.from_pretrained(checkpoint, lexical_rows=64)
    with torch.no_grad():
        head.evidence.is_fitted.fill_(True)
        head.evidence.weight[3], head.evidence.bias[0] = 20, -15
    head.save_pretrained(tmp_path / "head")
    processor = EClipProcessor.from_pretrained(checkpoint)
    processor.lexical_features = True
    processor.save_pretrained(tmp_path / "head")
    score = load_example("cluster").main(str(tmp_path / "head"), str(tmp_path / "groups.png"), num_offers=300)
    assert 0 < score <= 1


def test_recognise_finds_some(checkpoint, capsys):
    precision, recall = load_example("recognise").main(checkpoint, num_offers=400, target_recall=0.8)
    assert precision > 0 and recall > 0
    printed = capsys.readouterr().out
    assert "let through" in printed and printed.count("adult (") == 6


def test_with_sentence_transformers(checkpoint, capsys):
    pytest.importorskip("sentence_transformers")
    shares = load_example("with_sentence_transformers").main(checkpoint, num_offers=100)
    assert shares.keys() == {"title", "image", "both"} and 0 < shares["both"] <= 1
    assert capsys.readouterr().out.count("    by image: ") == 5


def test_lora_category_learns(checkpoint, capsys):
    load_example("lora_category").main(checkpoint, num_offers=200, num_epochs=2)
    printed = capsys.readouterr().out
    assert "parameters are trained" in printed and printed.count(" -> ") == 5
    first, last = (float(line.split()[-1]) for line in printed.splitlines() if line.startswith("epoch"))
    assert last < first


def test_lora_matching_learns(checkpoint, capsys):
    before, after = load_example("lora_matching").main(checkpoint, num_offers=100, num_epochs=1)
    assert 0 < before <= 1 and 0 < after <= 1
    assert "parameters are trained" in capsys.readouterr().out


def test_trainer_category_saves_a_head(checkpoint, tmp_path, capsys):
    load_example("trainer_category").main(checkpoint, str(tmp_path / "head"), num_offers=200, num_epochs=0.5)
    assert "accuracy on" in capsys.readouterr().out
    head = EClipForCategoryClassification.from_pretrained(tmp_path / "head")
    assert head.config.category_paths == sorted(head.config.category_paths)
    assert EClipProcessor.from_pretrained(tmp_path / "head").tokenizer.vocab_size > 0


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    monkeypatch.chdir(tmp_path)
    names, told, runs = {}, [], []
    for cell in notebook["cells"]:
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        if cell["cell_type"] == "code":
            told += [json.dumps(output) for output in cell["outputs"]]
            runs.append(cell["execution_count"])
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "NUM_STEPS" in names and "losses" not in names:  # little of everything
            names.update(NUM_OFFERS=200, NUM_STEPS=20, BATCH_SIZE=32)
    # Stored as it ran, from top to bottom in a new kernel: pictures and words, no error and no folder of a machine.
    assert runs == list(range(1, len(runs) + 1))
    assert sum("image/png" in output for output in told) == 3 and any("right product is among" in o for o in told)
    assert not any('"error"' in output or '"stderr"' in output or str(ROOT) in output for output in told)
    assert names["losses"][-1] < names["losses"][0] and names["accuracy"] > 2 / 30
    assert {path.name for path in (tmp_path / "outputs" / "notebook").glob("*.png")} == {
        "offers.png", "groups.png", "neighbours.png"
    }  # fmt: skip
    assert "the right product is among the first 5" in capsys.readouterr().out
