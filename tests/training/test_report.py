"""`report.py`: the table end to end on the generated products, and its parts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import MODEL, MODEL_SETTINGS
from PIL import Image
from transformers import CLIPConfig

import modeling_eclip
from modeling_eclip import EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.report import ReportArguments
from training.benchmark.classical import answer_classically
from training.benchmark.classical_features import ClassicalFeatures, image_histograms
from training.benchmark.kept_heads import keep_checkpoints
from training.benchmark.page import check_both, first_page
from training.benchmark.report import plan_tasks, pretrain, report
from training.benchmark.runs import CLASSICAL, RunGroup, TaskConfig, compute_group, head_folder
from training.benchmark.tables import measure_group, write_report
from training.engine.build import build_model, build_processor, load_split
from training.evaluation.task_evaluation import load_evaluated_split
from training.evaluation.task_metrics import Outcomes, measure
from training.retrieval.offer_embeddings import embed_dataset
from training.retrieval.retrieval_metrics import retrieval_metrics
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head
from training.tasks.registry import find_task

DATA = DataArguments(train_data=["toy"], toy_offers=150, num_workers=0)
KEYS = {"task", "modality", "data", "method", "labels", "metric", "value", "low", "high", "spread", "seeds"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A pre-training and a task on the generated products, both tiny."""
    folder = tmp_path_factory.mktemp("configs")
    toy = {"train_data": ["toy"], "toy_offers": 150, "num_workers": 0}
    pretraining = folder / "pretraining.yaml"
    pretraining.write_text(yaml.safe_dump({**toy, **MODEL_SETTINGS, "batch_size": 32, "max_samples": 64}))
    task = folder / "toy.yaml"
    task.write_text(yaml.safe_dump({**toy, "num_epochs": 1}))
    return pretraining, task


@pytest.fixture(scope="module")
def written(configs, tmp_path_factory):
    """A report, its arguments and its folder."""
    pretraining, task = configs
    folder = tmp_path_factory.mktemp("report")
    arguments = ReportArguments(
        output_dir=str(folder),
        pretraining=str(pretraining),
        tasks=[f"category:{task}"],
        trained_modalities=["category:toy:text"],
        methods=["eclip", "classical"],
        label_shares=[0.5, 1.0],
        num_seeds=2,
        num_resamples=20,
    )
    return report(arguments), arguments, folder


def test_the_whole_table(written):
    rows, arguments, folder = written
    assert rows == json.loads((folder / "report.json").read_text())
    assert all(set(row) == KEYS for row in rows)
    found = {(row["task"], row["modality"], row["method"], row["labels"]) for row in rows}
    assert len(found) == 3 * 2 * 2
    assert {row["seeds"] for row in rows} == {2} and {row["data"] for row in rows} == {"toy"}
    accuracies = [row for row in rows if row["task"] == "category" and row["metric"] == "accuracy"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in accuracies)
    text = (folder / "report.md").read_text()
    assert "## category, toy" in text and "| classical |" in text
    assert (folder / "labels-toy-category.png").is_file()
    assert (folder / "pictures" / "toy-category-both" / "confusion_category.png").is_file()
    assert not list((folder / "heads").iterdir())


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_its_checkpoints_load(written, modality):
    _, _, folder = written
    checkpoint = folder / "checkpoints" / f"toy-category-{modality}"
    head = modeling_eclip.EClipForCategoryClassification.from_pretrained(checkpoint)
    processor = EClipProcessor.from_pretrained(checkpoint)
    inputs = processor(text=["red mug"], images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    with torch.no_grad():
        assert len(head.decode(head.eval()(**inputs).logits)) == 1
    assert head.config.modality == modality


def test_other_settings_are_another_report(written):
    _, arguments, folder = written
    with pytest.raises(ValueError, match="`max_task_rows` is not what it was when .* was begun"):
        report(replace(arguments, max_task_rows=10))
    # Not even a copy: its backbones would be taken for those of the other one.
    other = folder.parent / "other.yaml"
    other.write_text(Path(arguments.pretraining).read_text())
    with pytest.raises(ValueError, match="`pretraining` is not what it was when .* was begun"):
        report(replace(arguments, pretraining=str(other)))


@pytest.mark.parametrize("task", ["matching", "clustering"])
def test_runs_of_pairs_and_groups(configs, tmp_path, task):
    on = TaskConfig.read(task, str(configs[1]))
    arguments = ReportArguments(output_dir=str(tmp_path), pretraining=str(configs[0]), tasks=["unused"])
    group = RunGroup(on, "no_pretraining", (pretrain("no_pretraining", arguments, 0),), 1.0, (0,))
    compute_group(group, tmp_path)
    rows = measure_group(group, tmp_path, num_resamples=10)
    assert {row["modality"] for row in rows} == {"text", "image", "both"} and all(row["seeds"] == 1 for row in rows)
    # Nothing where it is not defined, such as the precision of a yes that no pair gets.
    assert all(row["value"] is None or 0 <= row["value"] <= 1 for row in rows)
    assert all(
        row["value"] is not None for row in rows if row["metric"] in ("average_precision", "adjusted_rand_index")
    )


def test_goes_on_where_it_was_stopped(written):
    rows, arguments, folder = written
    runs = sorted((folder / "runs").glob("*.json"))
    lost = [path for path in runs if "both-eclip-1" in path.name or "text-eclip-0.5-1" in path.name]
    times = {path: path.stat().st_mtime_ns for path in runs if path not in lost}
    assert len(lost) >= 3
    # Damaged ones are as good as lost.
    lost[0].unlink()
    lost[1].write_text("")
    outcomes = lost[2].with_suffix(".npz")
    outcomes.write_bytes(outcomes.read_bytes()[:100])
    again = report(replace(arguments, jobs=1))  # how many compute at a time is no part of what is reported
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert all(json.loads(path.read_text())["task"] == "category" for path in lost)
    assert again == rows


@pytest.mark.parametrize("name", ["seconds.json", "settings.json"])
def test_a_damaged_file_of_a_report_is_named(written, tmp_path, name):
    _, arguments, folder = written
    shutil.copytree(folder, tmp_path / "report", ignore=shutil.ignore_patterns("runs", "checkpoints", "pretraining"))
    (tmp_path / "report" / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is damaged .*; remove it"):
        report(replace(arguments, output_dir=str(tmp_path / "report")))


def test_pretrains_rivals_without_what_the_method_adds(configs, tmp_path):
    arguments = ReportArguments(output_dir=str(tmp_path), pretraining=str(configs[0]), tasks=["unused"])
    untrained = modeling_eclip.EClipModel.from_pretrained(pretrain("no_pretraining", arguments, 0).checkpoint)
    expected = build_model(MODEL, build_processor(MODEL, load_split(DATA, "train")["title"]).tokenizer, seed=0)
    for name, value in expected.state_dict().items():
        assert torch.equal(untrained.state_dict()[name], value), name
    rival = pretrain("hard_labels", replace(arguments, pretraining_samples=32), 1)
    assert rival.checkpoint.endswith("hard_labels-1")
    assert modeling_eclip.EClipConfig.from_pretrained(rival.checkpoint).catalog_mates == "negative"
    assert pretrain("classical", arguments, 0) == ModelArguments()
    assert pretrain(rival.checkpoint, arguments, 0) == ModelArguments(checkpoint=rival.checkpoint)
    CLIPConfig().save_pretrained(tmp_path / "clip")
    assert pretrain(str(tmp_path / "clip"), arguments, 0) == ModelArguments(clip=str(tmp_path / "clip"))


def test_plans(configs, tmp_path):
    _, task = configs
    titles = tmp_path / "titles.yaml"
    titles.write_text("train_data: [toy]\nmodality: text\n")
    arguments = ReportArguments(
        tasks=[f"clustering:{task}", f"matching:{titles}"], trained_modalities=["clustering:toy:image"]
    )
    clustering, matching = plan_tasks(arguments)
    assert clustering.modalities == ("text", "image", "both") and clustering.trained_modalities == ("image",)
    assert matching.modalities == ("text",) and find_task(matching.task).draws_rows(matching.products)
    with pytest.raises(ValueError, match="`trained_modalities` holds 'matching:titles:image'"):
        plan_tasks(replace(arguments, trained_modalities=["matching:titles:image"]))
    # A configuration may name modalities of tasks that the command line leaves out.
    (alone,) = plan_tasks(
        replace(arguments, tasks=[f"clustering:{task}"], trained_modalities=["adult:elsewhere:text"])
    )
    assert alone.trained_modalities == ()
    with pytest.raises(ValueError, match="`trained_modalities` holds 'text'"):
        plan_tasks(replace(arguments, trained_modalities=["text"]))
    with pytest.raises(ValueError, match=r"'nowhere.yaml' is no file"):
        plan_tasks(replace(arguments, tasks=["category:nowhere.yaml"]))
    with pytest.raises(ValueError, match="`tasks` is empty"):
        plan_tasks(ReportArguments())
    with pytest.raises(ValueError, match="both is put together from text and image"):
        ReportArguments(modalities=["both", "text"])
    with pytest.raises(ValueError, match="`label_shares` is"):
        ReportArguments(label_shares=[0.0])


def test_what_is_named_twice_or_wrongly(configs, tmp_path):
    _, task = configs
    titles = tmp_path / "titles.yaml"
    titles.write_text("train_data: [toy]\nmodality: text\n")
    with pytest.raises(ValueError, match="`tasks` names category on 'toy' twice"):
        plan_tasks(ReportArguments(tasks=[f"category:{task}", f"category:{task}"]))
    (planned,) = plan_tasks(ReportArguments(tasks=[f"category:{task}", f"adult:{titles}"], modalities=["image"]))
    assert planned.task == "category" and planned.modalities == ("image",)
    with pytest.raises(ValueError, match="`modalities` holds 'texts'; give some of text, image, both"):
        ReportArguments(modalities=["texts"])


def test_a_kept_head_gives_way_to_a_better_one_only(tmp_path):
    task = TaskConfig("category", "toy", ("text",), trained_modalities=("text",))
    for seeds, scores, kept in (((0,), (0.5,), 0), ((0, 1), (0.5, 0.4), 0), ((0, 1, 2), (0.5, 0.4, 0.9), 2)):
        group = RunGroup(task, "eclip", (ModelArguments(),), 1.0, seeds, keep_heads=True)
        for run, score in zip(group.runs("text"), scores, strict=len(seeds) > 1):
            if run.seed == seeds[-1]:  # the new one
                head_folder(run, tmp_path).mkdir(parents=True)
                (head_folder(run, tmp_path) / "which").write_text(str(run.seed))
            (tmp_path / "runs").mkdir(exist_ok=True)
            (tmp_path / "runs" / f"{run.name}.json").write_text(json.dumps({"score": score}))
        (tmp_path / "pictures" / "toy-category-text").mkdir(parents=True, exist_ok=True)
        keep_checkpoints([group], tmp_path)
        assert (tmp_path / "checkpoints" / "toy-category-text" / "which").read_text() == str(kept)
        assert (tmp_path / "pictures" / "toy-category-text").is_dir() == (seeds == (0, 1))
        assert not list((tmp_path / "heads").iterdir())


def test_runs_without_chance_are_computed_once():
    task = TaskConfig("category", "toy", ("text", "image", "both"), trained_modalities=("text",))
    group = RunGroup(task, "eclip", (ModelArguments(),), 1.0, (0, 1, 2))
    assert [len(group.runs(modality)) for modality in ("text", "image", "both")] == [3, 1, 3]
    assert group.run("image", 2).seed == 0 and group.run("text", 2).seed == 2
    assert len(replace(group, labels=0.1).runs("image")) == 3
    assert len(replace(group, method=CLASSICAL).runs("both")) == 1
    grouping = replace(group, on=replace(task, task="clustering"))
    assert len(grouping.runs("image")) == 3
    assert len(replace(grouping, method=CLASSICAL, labels=0.1).runs("both")) == 1


def test_several_runs_are_measured_together(tmp_path):
    reference = np.array([[0], [1], [0], [1]])
    answers = [np.array([[0], [1], [0], [0]]), np.array([[0], [1], [0], [1]])]
    depths = np.ones((4, 3), dtype=np.int64)
    runs = []
    for number, prediction in enumerate(answers):
        arrays = {"reference": np.repeat(reference, 2, 1), "prediction": np.repeat(prediction, 2, 1)}
        arrays |= {"depths": depths, "in_top": np.ones(4, dtype=bool)}
        Outcomes("product_category", arrays, np.full(4, -1), {}).save(tmp_path / f"{number}.npz")
        runs.append(Outcomes.load(tmp_path / f"{number}.npz"))
    both, alone = measure(runs, num_resamples=50)["accuracy"], measure(runs[1:], num_resamples=50)["accuracy"]
    assert both.value == pytest.approx((0.75 + 1.0) / 2) and tuple(alone) == (1.0, 1.0, 1.0)
    # The standard error of .75 and 1 is .125, and Student's t of two 12.7: that much on either side, at least.
    assert both.low <= both.value - 12.7 * 0.125 and both.high == 1.0
    with pytest.raises(ValueError, match="different rows"):
        measure([runs[0], replace(runs[1], groups=np.arange(4))])


def test_a_file_says_how_a_task_is_learned_and_how_it_is_measured(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text("modality: text\nlearning_rate: 1e-4\nseed: 3\nresample_by: rows\nnum_resamples: 7\n")
    config = TaskConfig.read("adult", str(path), max_rows=5)
    assert (config.data, config.modalities, config.products.max_train_rows) == ("shop", ("text",), 5)
    assert (config.finetuning.task, config.finetuning.seed, config.finetuning.learning_rate) == ("adult", 3, 1e-4)
    evaluation = config.evaluation
    assert (evaluation.task, evaluation.seed, evaluation.resample_by) == ("adult", 3, "rows")
    assert evaluation.num_resamples == 7 and evaluation.modality is None


def test_the_report_says_where_it_is_behind(tmp_path):
    key = {"task": "adult", "modality": "text", "data": "toy", "labels": 1.0, "metric": "average_precision"}
    rows = [
        {**key, "method": "eclip", "value": 0.5, "low": 0.4, "high": 0.6, "spread": 0.02, "seeds": 2},
        {**key, "method": "classical", "value": 0.8, "low": 0.7, "high": 0.9, "spread": None, "seeds": 2},
    ]
    task = TaskConfig("adult", "toy", ("text",))
    groups = [RunGroup(task, method, (), 1.0, (0,)) for method in ("eclip", "classical")]
    nothing = {"value": None, "low": None, "high": None, "spread": None}
    rows += [{**row, "metric": "precision_at_recall_95", **nothing} for row in rows]
    write_report(rows, groups, tmp_path, {}, 60.0)
    text = (tmp_path / "report.md").read_text()
    assert "| classical | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| adult, toy | average precision | text | 0.500 | **0.800** |" in text
    assert "average precision 0.500 against 0.800 (classical)" in text
    assert "0.500 ± 0.020 [0.400, 0.600] | **0.800** [0.700, 0.900]" in text
    # The first page says it in words.
    assert (
        "- behind it, intervals apart, in 1: adult on toy from text, 100% of the labels (0.500 against 0.800)" in text
    )
    assert text.index("What won, and what did not") < text.index("| adult, toy |")
    assert (tmp_path / "overview.png").is_file() and "](overview.png)" in text


def row_of(value, high, **fields):
    key = {"task": "category", "data": "toy", "method": "eclip", "labels": 1.0, "metric": "accuracy", "seeds": 1}
    return {**key, "value": value, "low": 2 * value - high, "high": high, "spread": None, **fields}


def test_both_is_compared_with_its_better_part():
    rows = [row_of(0.7, 0.8, modality="text"), row_of(0.5, 0.6, modality="image")]
    assert check_both(rows) == []  # nothing was learned from both
    # Its interval reaches the better part; the worse one does not matter.
    assert check_both([*rows, row_of(0.65, 0.7, modality="both")]) == [
        "Title and image together are never below the better of the two by more than their interval: "
        "1 of 1 comparisons."
    ]
    sentence, _, place = check_both([*rows, row_of(0.65, 0.69, modality="both")])
    assert "in 0 of 1 comparisons" in sentence
    assert place == (
        "- category on toy from both, 100% of the labels, eclip: "
        "accuracy 0.650 (up to 0.690) from both, 0.700 from text"
    )


def test_what_won_is_said_in_words():
    rows = []
    for task, ours, theirs in (("category", 0.9, 0.5), ("adult", 0.5, 0.55)):
        metric = find_task(task).main_metric()
        for method, value in (("eclip", ours), ("hard_labels", theirs)):
            rows.append(row_of(value, value + 0.1, task=task, metric=metric, modality="text", method=method))
    text = "\n".join(first_page(rows, ["eclip", "hard_labels"], "a.png"))
    assert "e-CLIP and plain CLIP labels**, by 2 comparisons" in text
    where = "category on toy from text, 100% of the labels"
    assert f"- ahead of it, intervals apart, in 1: {where} (0.900 against 0.500);" in text
    assert "- behind it, intervals apart, in 0;" in text and "no difference beyond the intervals in 1." in text


def test_retrieval_is_an_entry_without_a_head(configs, tmp_path):
    pretraining, task = configs
    arguments = ReportArguments(
        output_dir=str(tmp_path),
        pretraining=str(pretraining),
        tasks=[f"retrieval:{task}"],
        methods=["no_pretraining", "classical"],
        label_shares=[0.5, 1.0],
        num_resamples=10,
        jobs=1,
    )
    rows = report(arguments)
    # Once: no labels are learned from, and the classical method has no way from titles to images.
    assert {(row["method"], row["labels"], row["modality"]) for row in rows} == {("no_pretraining", 1.0, "both")}
    found = {row["metric"]: row["value"] for row in rows}
    folder = tmp_path / "pretraining" / "no_pretraining"
    offers = embed_dataset(
        modeling_eclip.EClipModel.from_pretrained(folder),
        EClipProcessor.from_pretrained(folder),
        load_split(DATA, "test"),
        Accelerator(),
        batch_size=16,
        num_workers=0,
    )
    expected = retrieval_metrics(offers)
    names = [name for name in expected if not name.startswith("chance")]
    assert len(names) == 12 and {"text_to_image_ndcg@10", "image_to_text_mean_average_precision"} < set(names)
    for name in names:
        assert found[name] == pytest.approx(expected[name]), name
    assert "retrieval, toy" in (tmp_path / "report.md").read_text()


def test_histograms_of_one_colour_and_of_an_edge():
    plain = image_histograms(Image.new("RGB", (50, 80), (255, 0, 0)))
    assert plain.shape == (704,) and plain[:128].max() == 1.0 and plain[128:].sum() == 0
    halves = np.zeros((64, 64, 3), dtype=np.uint8)
    halves[:, 32:] = 255
    colours, edges = np.split(image_histograms(Image.fromarray(halves)), [128])
    assert np.sort(colours)[-2:] == pytest.approx([0.5**0.5] * 2)
    by_cell = edges.reshape(8, 8, 9)
    # An upright edge between the fourth and the fifth column of cells; its gradient points across: direction 0.
    assert by_cell[:, 3:5, 0] == pytest.approx(0.25) and by_cell[:, :3].sum() == by_cell[:, 5:].sum() == 0


def test_classical_features_of_what_is_missing():
    products = load_split(DATA, "train").select(range(20))
    blank = products.select([0]).map(lambda row: {"title": "", "image": None})
    features = ClassicalFeatures(products, "both")
    found = features(blank)
    assert list(found) == ["text", "image"] and found["text"].nnz == 0 and not found["image"].any()
    assert list(features.views(products)) == ["words", "characters", "image"]
    for part in features.views(products).values():
        norms = np.sqrt(
            np.asarray((part.multiply(part) if hasattr(part, "multiply") else part**2).sum(axis=1))
        ).ravel()
        assert norms == pytest.approx(1.0)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
@pytest.mark.parametrize("task", ["category", "attributes", "adult", "matching", "clustering"])
def test_the_classical_baseline(task, modality):
    arguments = FinetuneArguments(task=task, modality=modality)
    data = DataArguments(train_data=["toy"], toy_offers=300, num_workers=0, restricted_column="is_red")
    splits = {
        "train": find_task(task).load_split(data, "train", 0),
        "validation": find_task(task).load_split(data, "validation", 0),
        "test": load_evaluated_split(find_task(task), data, "test", 0),
    }
    if task == "adult":
        splits = {
            name: split.map(lambda row: {"is_red": "red" in row["title"].lower()}) for name, split in splits.items()
        }
    answers, score = answer_classically(splits, data, arguments)
    metrics = measure([Outcomes.of(answers)], num_resamples=10)
    assert 0 <= score <= 1 and len(answers.references) == len(splits["test"])
    chance = {"category": ("accuracy", 0.1), "attributes": ("accuracy", 0.3), "adult": ("average_precision", 0.1)}
    chance |= {"matching": ("average_precision", 0.3), "clustering": ("adjusted_rand_index", 0.02)}
    name, least = chance[task]
    assert metrics[name].value > least
    if find_task(task).baseline_compares_pairs:
        # Chosen on validation among all that there is without them, too; images say nothing literally.
        _, literal_score = answer_classically(splits, data, arguments, reads_lexical=True)
        assert literal_score == score if modality == "image" else literal_score >= score


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A base model, and a head of each modality on it."""
    folder = tmp_path_factory.mktemp("parts")
    processor = build_processor(MODEL, load_split(DATA, "train")["title"])
    build_model(MODEL, processor.tokenizer, seed=0).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    base = ModelArguments(checkpoint=str(folder / "base"))
    data = replace(DATA, validation_split="train")
    for modality, method in (("text", "full"), ("image", "linear")):
        finetune(
            base,
            data,
            FinetuneArguments(
                task="category", modality=modality, method=method, num_epochs=1, output_dir=str(folder / modality)
            ),
        )
    return folder, data


def test_heads_of_each_modality_are_joined(parts, tmp_path):
    folder, data = parts
    join = [str(folder / "text"), str(folder / "image")]
    arguments = FinetuneArguments(task="category", join=join, output_dir=str(tmp_path))
    found = finetune(ModelArguments(), data, arguments)
    joined, titles, images = (load_head(str(path)).eval() for path in (tmp_path, *join))
    assert found["modality"] == "both" and found["trained_weights"] == 0 and joined.config.modality == "both"
    processor = EClipProcessor.from_pretrained(tmp_path)
    text = processor(text=["red mug"], return_tensors="pt")
    pixels = processor(images=[Image.new("RGB", (32, 32), "red")], return_tensors="pt")
    with torch.no_grad():
        for part, inputs in ((titles, text), (images, pixels)):
            # A missing modality has the same logit for every class.
            expected = part(**inputs).logits.softmax(dim=-1)
            torch.testing.assert_close(joined(**inputs).logits.softmax(dim=-1), expected)
    assert not torch.equal(joined.classifier.fusion_scale, torch.full((2,), 0.5))


def test_adapters_are_put_together_with_the_weights_that_they_belong_to(parts, tmp_path):
    folder, data = parts
    adapters = FinetuneArguments(
        task="category", modality="text", method="lora", num_epochs=1, output_dir=str(tmp_path / "lora")
    )
    finetune(ModelArguments(checkpoint=str(folder / "base")), data, adapters)
    assert not (tmp_path / "lora" / "model.safetensors").exists()
    join = [str(tmp_path / "lora"), str(folder / "image")]
    finetune(ModelArguments(), data, FinetuneArguments(task="category", join=join, output_dir=str(tmp_path / "both")))
    titles, joined = (load_head(path).state_dict() for path in (join[0], str(tmp_path / "both")))
    for name, value in titles.items():
        if not name.startswith("eclip.vision_model."):
            torch.testing.assert_close(joined[name], value, msg=name)


def test_what_does_not_fit_is_not_put_together(parts, tmp_path):
    folder, data = parts
    text, image = str(folder / "text"), str(folder / "image")
    arguments = FinetuneArguments(task="category", join=[image, text], output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="EClipForCategoryClassification of image; give .* of text there"):
        finetune(ModelArguments(), data, arguments)
    with pytest.raises(ValueError, match="give two heads, the one of titles first"):
        finetune(ModelArguments(), data, replace(arguments, join=[text]))
    with pytest.raises(ValueError, match="give a EClipForProductMatching of text there"):
        finetune(ModelArguments(), data, replace(arguments, task="matching", join=[text, image]))
    shutil.copytree(image, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="image towers of different kinds"):
        finetune(ModelArguments(), data, replace(arguments, join=[text, str(tmp_path / "other")]))
    fewer = replace(data, exclude_rows=[], category_column="colour")
    with pytest.raises(ValueError, match="`category_paths` of .* is not what the training products have"):
        finetune(ModelArguments(), fewer, replace(arguments, join=[text, image]))
