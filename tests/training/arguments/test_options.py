"""Numbers are finite and in their range, in every group of arguments."""

import dataclasses
import math

import pytest

from training.arguments.data import DataArguments
from training.arguments.embed import EmbedArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.options import check_checkpoint, check_ranges, option
from training.arguments.parser import ALL_ARGUMENTS
from training.arguments.prepare import PrepareArguments
from training.arguments.train import TrainArguments

GIVEN = {PrepareArguments: {"input": ["x"]}, EmbedArguments: {"input": ["x"], "checkpoint": "x"}}
FLOATS = [
    (group, entry.name)
    for group in (*ALL_ARGUMENTS, *GIVEN)
    for entry in dataclasses.fields(group)
    if "float" in str(entry.type) or entry.type is float
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("group", "name"), FLOATS, ids=lambda given: getattr(given, "__name__", given))
def test_what_is_no_number_is_refused(group, name, value):
    is_list = "list" in str(next(entry.type for entry in dataclasses.fields(group) if entry.name == name))
    with pytest.raises(ValueError, match=f"`{name}` is -?(nan|inf)"):
        group(**GIVEN.get(group, {}), **{name: [value] if is_list else value})


@pytest.mark.parametrize(
    ("group", "name", "value", "words"),
    [
        (TrainArguments, "learning_rate", 1e38, "0 to 10"),
        (TrainArguments, "learning_rate", -1e-3, "0 to 10"),
        (TrainArguments, "num_epochs", 1e12, "above 0 and at most 1e+06"),
        (TrainArguments, "num_epochs", 0.0, "above 0 and at most 1e+06"),
        (TrainArguments, "adam_beta2", 1.0, "0 to below 1"),
        (TrainArguments, "max_grad_norm", 0.0, "more than 0"),
        (TrainArguments, "seed", -1, "at least 0"),
        (FinetuneArguments, "label_share", 0.0, "above 0 and at most 1"),
        (FinetuneArguments, "tower_learning_rate", 11.0, "0 to 10, or leave it out"),
        (DataArguments, "max_train_rows", 0, "at least 1, or leave it out"),
        (DataArguments, "max_skipped_share", 1.5, "0 to 1"),
    ],
)
def test_what_is_out_of_range_is_refused(group, name, value, words):
    with pytest.raises(ValueError) as error:
        group(**{name: value})
    assert str(error.value) == f"`{name}` is {value}; give {words}."


def test_each_number_of_a_list_is_looked_at():
    @dataclasses.dataclass
    class Some:
        shares: list[float] = option("Shares.", [0.5], within="(0, 1]")
        flag: bool = option("No number.", True, within="[5, 6]")
        name: str = option("No number.", "nan", within="[5, 6]")

    check_ranges(Some())
    with pytest.raises(ValueError, match="`shares` is 2; give above 0 and at most 1"):
        check_ranges(Some(shares=[0.5, 2]))


@pytest.mark.parametrize("group", [DataArguments, PrepareArguments, EmbedArguments])
def test_an_encoding_is_one_that_there_is(group):
    with pytest.raises(ValueError, match="`encoding` is 'latin-99'; give one that Python knows"):
        group(**GIVEN.get(group, {}), encoding="latin-99")


@pytest.mark.parametrize("value", ["", None, "owner/name", "gpt2", "google/siglip2-base-patch16-224"])
def test_a_hub_id_is_not_looked_for_here(value):
    check_checkpoint("checkpoint", value)


def test_a_folder_that_is_not_there_is_told_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "quickstart").mkdir(parents=True)
    with pytest.raises(ValueError, match="'outputs/quickstart', which is no folder of a model: it has no config.json"):
        check_checkpoint("checkpoint", "outputs/quickstart")
    (tmp_path / "outputs" / "quickstart" / "adapter_config.json").touch()
    check_checkpoint("checkpoint", "outputs/quickstart")
    with pytest.raises(ValueError, match=r"`checkpoint` is 'outputs/quikstart'.*did you mean 'outputs/quickstart'\?"):
        check_checkpoint("checkpoint", "outputs/quikstart")
    for value in ("/nowhere/model", "./model", "~/no such model", "a/b/c", "outputs/other"):
        with pytest.raises(ValueError, match="no such folder; name one that is"):
            check_checkpoint("clip", value)
