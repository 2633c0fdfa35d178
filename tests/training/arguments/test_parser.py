"""Arguments: one parser for file and command line, unknown keys refused."""

import dataclasses
import json
import re
from dataclasses import dataclass

import pytest
import yaml

from training.arguments import parser
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.model import ModelArguments
from training.arguments.options import option
from training.arguments.parser import parse_arguments
from training.arguments.prepare import PrepareArguments
from training.arguments.publish import PublishArguments
from training.arguments.train import TrainArguments

TRAIN = (ModelArguments, DataArguments, TrainArguments)


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_command_line_goes_before_the_file(tmp_path):
    config = write(tmp_path / "run.yaml", {"learning_rate": 1.0, "batch_size": 32, "train_data": ["a", "b"]})
    _, data, train = parse_arguments(TRAIN, ["--learning_rate", "3e-4", "--config", config])
    assert (train.learning_rate, train.batch_size, data.train_data) == (3e-4, 32, ["a", "b"])


def test_file_values_have_the_types_of_the_command_line(tmp_path):
    # To YAML, 3e-4 is text and `no` is false.
    text = "learning_rate: 3e-4\nstreaming: true\nmixed_precision: 'no'\nmax_samples: null\nfreeze: []\n"
    text += "vision_config: {model_type: vit, hidden_size: 32}\n"
    model, data, train = parse_arguments(TRAIN, [f"--config={write(tmp_path / 'run.yaml', text)}"])
    assert (train.learning_rate, data.streaming, train.mixed_precision, train.max_samples) == (3e-4, True, "no", None)
    assert model.freeze == []
    assert json.loads(model.vision_config) == {"model_type": "vit", "hidden_size": 32}


def test_numbers_and_words_as_people_write_them(tmp_path):
    @dataclass
    class Shifts:  # arguments that may be negative, which no argument of training may
        first: float = option("A number.", 0.0)
        second: float = option("A number.", 0.0)

    text = "mixed_precision: no\nmax_samples: 1e6\nfirst: -1e-4\nstreaming: false\ntitle_column: yes\n"
    config = write(tmp_path / "run.yaml", text)
    _, data, train, shifts = parse_arguments((*TRAIN, Shifts), ["--config", config, "--second", "-1e-4"])
    assert (train.mixed_precision, train.max_samples) == ("no", 1_000_000)
    assert (shifts.first, shifts.second) == (-1e-4, -1e-4)
    assert (data.streaming, data.title_column) == (False, "yes")


def test_lists_may_be_empty_and_hold_negative_numbers():
    model, *_ = parse_arguments(TRAIN, ["--matryoshka_weights", "1e-1", "-1e-4", "-.5", "--freeze"])
    assert (model.matryoshka_weights, model.freeze) == ([0.1, -1e-4, -0.5], [])


def test_held_out_offers_are_drawn_only_where_training_is():
    quickstart = ["--config", "training/configs/quickstart.yaml"]
    data = parse_arguments(TRAIN, quickstart)[1]
    assert data.train_data == data.validation_data == data.test_data == ["toy"]
    data = parse_arguments(TRAIN, [*quickstart, "--train_data", "offers.parquet"])[1]
    assert data.validation_data == data.test_data == data.attribute_columns == []
    data = parse_arguments(TRAIN, [])[1]
    assert data.train_data == data.validation_data == data.test_data == []
    data = parse_arguments(TRAIN, ["--train_data", "toy", "--validation_share", "0.1"])[1]
    assert data.validation_data == [] and data.test_data == ["toy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train_data a.csv --validation_data toy", "`validation_data` is ['toy']"),
        ("--train_data a.csv --validation_data b.csv --test_data toy", "`test_data` is ['toy']"),
        ("--train_data a.csv --validation_data b.csv --validation_share 0.1", "give one of them"),
        ("--train_data a.csv --streaming true --validation_share 0.1", "`streaming` is true"),
        ("--train_data a.csv --validation_share 1", "`validation_share` is 1"),
        ("--train_data a.csv --teacher /nowhere/model", "`teacher` is '/nowhere/model', and there is no such folder"),
        ("--train_data a.csv --teacher start --teacher_modalities title", "`teacher_modalities` is ['title']"),
    ],
)
def test_what_cannot_be_or_would_measure_other_offers_is_refused(words, message, capsys):
    with pytest.raises(SystemExit) as left:
        parse_arguments(TRAIN, words.split())
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and len(error.splitlines()) == 1


def test_help_comes_in_sections_and_names_each_argument_once(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TRAIN, ["--help"])
    told = capsys.readouterr().out
    sections = [line[:-1] for line in told.splitlines() if line and not line.startswith(" ") and line.endswith(":")]
    assert sections == ["options", "data", "model", "run", "advanced"]
    listed = re.findall(r"^  (--\w+)", told, re.MULTILINE)
    fields = [f"--{entry.name}" for group in TRAIN for entry in dataclasses.fields(group)]
    assert sorted(listed) == sorted(["--config", *fields])
    assert told.index("--learning_rate ") < told.index("\nadvanced:") < told.index("--adam_beta2 ")


def test_hyphens_may_stand_for_underscores_and_no_for_false():
    _, _, train = parse_arguments(TRAIN, ["--batch-size", "8", "--output-dir=a-b", "--no-fix-batch-norm"])
    assert (train.batch_size, train.output_dir, train.fix_batch_norm) == (8, "a-b", False)


def test_first_words_may_be_values_and_a_file_alone_may_fill_a_class(tmp_path):
    (told,) = parse_arguments((PublishArguments,), ["out", "me/it", "--private"], positional=("checkpoint", "repo"))
    assert (told.checkpoint, told.repo, told.private) == ("out", "me/it", True)
    config = write(tmp_path / "run.yaml", {"checkpoint": "start", "output_dir": "trained", "seed": 3})
    words = ["--config", config, "--checkpoint", "a", "b"]
    measured, model = parse_arguments((EvaluationArguments,), words, of_file=(ModelArguments,))
    # a file's `checkpoint` and `output_dir` are those of training
    assert (measured.checkpoint, measured.output_dir, measured.seed) == (["a", "b"], "outputs/evaluation", 3)
    assert model.checkpoint == "start"


@pytest.mark.parametrize(
    ("argv", "nearest"), [(["--learning_rat", "1"], "learning_rate"), (["--batchsize=4"], "batch_size")]
)
def test_unknown_word_is_refused_with_the_nearest(argv, nearest, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TRAIN, argv)
    assert f"did you mean '{nearest}'?" in capsys.readouterr().err


def test_unknown_key_of_a_file_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TRAIN, ["--config", write(tmp_path / "run.yaml", {"traindata": "x"})])
    message = capsys.readouterr().err
    assert "unknown argument 'traindata'" in message and "did you mean 'train_data'?" in message


def test_a_file_may_hold_the_keys_of_other_scripts(tmp_path):
    config = write(tmp_path / "run.yaml", {"learning_rate": 1.0, "test_data": ["x"]})
    data, _ = parse_arguments((DataArguments, EvaluationArguments), ["--config", config])
    assert data.test_data == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "holds list"),
        ("a: [", "can't be read"),
        ("batch_size: many\n", "'many' is no whole number"),
        ("train_data: [a.csv]\nseed: 1\ntrain_data: [b.csv]\n", "'train_data' is given twice"),
        ("text_columns: {title: 1, title: 2}\n", "'title' is given twice"),
        ("train_data:\n- [a.csv]\n", "`train_data` in"),
        ("train_data:\n- null\n", "holds null; give text, numbers or mappings"),
    ],
)
def test_broken_files_are_errors(tmp_path, content, message, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TRAIN, ["--config", write(tmp_path / "run.yaml", content)])
    assert message in capsys.readouterr().err


def test_missing_file_and_stray_words_are_errors(capsys):
    for argv, message in (
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config"], "wants a YAML file"),
        (["stray"], "stray"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments(TRAIN, argv)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["quickstart", "fashion", "base", "marketplace"])
def test_shipped_configurations_parse(name, monkeypatch):
    monkeypatch.setattr(parser, "check_checkpoint", lambda *arguments: None)  # some name folders beside a clone
    model, data, train = parse_arguments(TRAIN, ["--config", f"training/configs/{name}.yaml"])
    assert train.output_dir == f"outputs/{name}"
    assert data.train_data
    assert model != ModelArguments()


@pytest.mark.parametrize("name", ["eval_every_samples", "save_every_samples"])
def test_how_often_is_at_least_each_sample(name):
    with pytest.raises(ValueError, match=f"`{name}` is 0; give at least 1, or leave it out"):
        TrainArguments(**{name: 0})


@pytest.mark.parametrize(("given", "titles"), [({}, None), ({"image_stream_size": 32}, 128)])
def test_streams_of_titles_are_larger_than_those_of_images(given, titles):
    assert TrainArguments(**given).text_stream_size == titles
    assert TrainArguments(**given, text_stream_size=8).text_stream_size == 8


def test_the_shipped_configuration_of_preparation_parses():
    (arguments,) = parse_arguments(
        (PrepareArguments,), ["--config", "training/configs/prepare.yaml", "--input", "raw.csv"]
    )
    assert arguments.output_dir.startswith("outputs/")
