"""Which files of a folder are a checkpoint, and what makes it one that is not whole."""

import pytest
import torch
from conftest import save_checkpoint
from safetensors.torch import save

from modeling_eclip import EClipModel
from modeling_eclip.hub.checkpoint_files import is_finite, list_published


@pytest.fixture
def folder(tmp_path):
    """A checkpoint, its weights in one file."""
    save_checkpoint(tmp_path)
    return tmp_path


@pytest.fixture
def parts(folder):
    """Names of the parts, once the checkpoint's weights are in several files."""
    EClipModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    return sorted(path.name for path in folder.glob("model-0*.safetensors"))


def weights(folder):
    return {path.name for path in list_published(folder) if "safetensors" in path.name}


def test_weights_are_those_that_from_pretrained_loads(folder):
    (folder / "model-old.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert weights(folder) == {"model.safetensors"}


def test_weights_in_parts_come_with_their_index(folder, parts):
    (folder / "model-00001-of-00099.safetensors").write_bytes(b"of another saving")
    assert weights(folder) == {*parts, "model.safetensors.index.json"}


@pytest.mark.parametrize("change", [lambda content: b"x", lambda content: content[:-1], lambda content: b""])
def test_a_file_that_is_cut_short_is_refused(folder, change):
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="model.safetensors' is no whole safetensors file .*; save the model again"):
        list_published(folder)


def test_a_file_without_weights_is_refused(folder):
    (folder / "model.safetensors").write_bytes(save({}))
    with pytest.raises(ValueError, match="model.safetensors' holds no weights"):
        list_published(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    model = EClipModel.from_pretrained(folder)
    with torch.no_grad():
        model.text_projection.weight[3, 5] = value
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"1 tensors with NaN or infinity \(text_projection.weight\).*earlier"):
        list_published(folder)


def test_finite_numbers_of_all_types_are_finite():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool):
        assert is_finite(torch.ones(3).to(dtype)) and is_finite(torch.empty(0, dtype=dtype))
    assert is_finite(torch.full((9,), 3e38)), "though their sum is not"
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))


def test_weights_in_one_file_and_in_parts_are_refused(folder):
    EClipModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    with pytest.raises(ValueError, match="take away those that are out of date"):
        list_published(folder)


def test_parts_that_are_not_as_the_index_says_are_refused(folder, parts):
    first = folder / parts[0]
    whole = first.read_bytes()
    first.unlink()
    with pytest.raises(ValueError, match=f"lacks '{parts[0]}', which 'model.safetensors.index.json' names"):
        list_published(folder)
    first.write_bytes(save({"text": torch.zeros(1)}))
    with pytest.raises(ValueError, match=f"{parts[0]}' and 'model.safetensors.index.json' do not agree on"):
        list_published(folder)
    first.write_bytes(whole)
    for content in ("{}", '{"weight_map": {"text": 1}}'):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(ValueError, match="has no `weight_map`"):
            list_published(folder)
