"""Heads: built on any start of a model, joined from two, or loaded as fine-tuning saved them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import find_adapter_config_file

from modeling_eclip import EClipConfig
from modeling_eclip.fusion_eclip import LexicalLinear, PairEvidence
from modeling_eclip.hub.publishing import save_code
from modeling_eclip.representation_eclip import EClipTaskModel
from training.arguments.model import ModelArguments
from training.engine.build import build_model, source_of
from training.engine.new_weights import expect_new_weights
from training.tasks.task import Task

__all__ = ["build_head", "forget_lexical", "freeze_unused", "join_heads", "load_head", "save_adapters"]


def build_head(
    task: type[Task],
    arguments: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    fields: dict[str, Any],
    *,
    seed: int,
) -> EClipTaskModel:
    """Put a head on a model, wherever that comes from.

    Args:
        task: The task.
        arguments: The model arguments.
        tokenizer: Tokenizer of the processor, whose vocabulary a new title tower gets.
        fields: Fields of the configuration that the head reads.
        seed: Seed of new weights.

    Returns:
        The head, in float32. The weights of a head of the same task and classes in the checkpoint are kept.

    Raises:
        ValueError: the checkpoint is of adapters.
    """
    head_class = task.head_class
    if source_of(arguments) == "checkpoint":
        set_seed(seed)
        if find_adapter_config_file(arguments.checkpoint) is not None:
            raise ValueError(
                f"`checkpoint` is {arguments.checkpoint!r}, which holds adapters; train them with `--merge true`, and "
                "give what that saves."
            )
        with expect_new_weights():
            return head_class.from_pretrained(arguments.checkpoint, dtype=torch.float32, **fields)
    model = build_model(arguments, tokenizer, seed=seed)
    head = head_class(EClipConfig.from_dict(model.config.to_dict() | fields))
    head.eclip.load_state_dict(model.state_dict())
    return head


def join_heads(task: Task, folders: Sequence[str], fields: dict[str, Any]) -> EClipTaskModel:
    """Join two heads, each on one modality and with its own tower, to one head on both.

    Args:
        task: The task.
        folders: Folder or Hub id of the head that looks at titles, and of the one that looks at images.
        fields: Fields of the configuration of the new head.

    Returns:
        The head, in float32; its fusion of the modalities is not fitted yet.

    Raises:
        ValueError: there are not two heads of this task, one for each modality, with the same classes.
    """
    if len(folders) != 2:
        raise ValueError(f"`join` names {list(folders)}; give two heads, the one of titles first.")
    heads = [load_head(folder) for folder in folders]
    wanted = task.head_class.__name__
    for folder, head, modality in zip(folders, heads, ("text", "image"), strict=True):
        found = f"a {type(head).__name__} of {head.config.modality}"
        if type(head).__name__ != wanted or head.config.modality != modality:
            raise ValueError(f"`join` names {folder!r}, {found}; give a {wanted} of {modality} there.")
        for name, classes in task.class_fields().items():
            if getattr(head.config, name) != classes:
                raise ValueError(f"`{name}` of {folder!r} is not what the training products have; train it on them.")
    titles, images = heads
    seen = [_vision_of(head.config) for head in heads]
    if seen[0] != seen[1]:
        raise ValueError(
            f"`join` names heads with image towers of different kinds, {folders[0]!r} and {folders[1]!r}; give heads "
            "that were trained on one base model."
        )
    config = EClipConfig.from_dict(titles.config.to_dict() | fields)
    joined = type(titles)(config)
    tower = f"{joined.base_model_prefix}.vision_model."
    state = images.state_dict()
    state = {name: value for name, value in state.items() if name.startswith(tower) or ".image." in name}
    found = joined.load_state_dict(titles.state_dict() | state, strict=False)  # the fusion is new
    if found.unexpected_keys:
        raise ValueError(f"`join` names heads with weights that a head of both has not: {found.unexpected_keys[:3]}.")
    return joined.eval()


def _vision_of(config: EClipConfig) -> dict[str, Any]:
    """Return what an image tower's weights and its vectors depend on."""
    traces = ("_name_or_path", "dtype", "transformers_version", "architectures")
    vision_config: Any = config.vision_config
    settings = {name: value for name, value in vision_config.to_dict().items() if name not in traces}
    return settings | {"vision_pooling": config.vision_pooling}


def freeze_unused(head: EClipTaskModel) -> None:
    """Freeze what the head does not use: the shared space, and the tower of a modality it does not see."""
    unused = ["visual_projection", "text_projection"]
    unused += {"text": ["vision_model"], "image": ["text_model"]}.get(head.config.modality, [])
    for name in unused:
        head.eclip.get_submodule(name).requires_grad_(False)
    for scalar in (head.eclip.logit_scale, head.eclip.logit_bias):
        if scalar is not None:
            scalar.requires_grad_(False)


@torch.no_grad()
def forget_lexical(head: EClipTaskModel) -> None:
    """Have the vectors answer alone, as training assumes: what was fitted beside them was fitted to other vectors."""
    for module in head.modules():
        if isinstance(module, LexicalLinear):
            module.weight.zero_()
        elif isinstance(module, PairEvidence):
            module.is_fitted.fill_(False)


def load_head(folder: str) -> EClipTaskModel:
    """Load a head as fine-tuning saved it: a whole model, or adapters alone, which are added to the model they name.

    Args:
        folder: Folder or Hub id, of a whole model or of adapters.

    Returns:
        The head in float32, in evaluation mode.

    Raises:
        ValueError: it is no head's checkpoint.
    """
    from training.tasks.registry import TASKS, task_of_head  # here, since it imports all files of this folder

    config = EClipConfig.from_pretrained(folder)
    if (task := task_of_head(config.architectures)) is None:
        known = [one.head_class.__name__ for one in TASKS.values()]
        raise ValueError(f"{folder!r} holds {config.architectures} and no head; give one of {known}.")
    head_class = task.head_class
    if find_adapter_config_file(folder) is None:
        return head_class.from_pretrained(folder, dtype=torch.float32)
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    head = head_class.from_pretrained(base, config=config, dtype=torch.float32)
    return PeftModel.from_pretrained(head, folder).merge_and_unload().eval()


def save_adapters(head: EClipTaskModel, layers: Sequence[str], folder: Path, base: str) -> None:
    """Save a head's adapters and its own weights alone, as peft does: `PeftModel.from_pretrained` reads them.

    Args:
        head: The head, whose model has adapters.
        layers: Names of the layers of `head.eclip` that have them.
        folder: Where to.
        base: The checkpoint that they were trained on.
    """
    (trained,) = head.eclip.peft_config.values()
    own = [name for name, _ in head.named_children() if name != head.base_model_prefix]
    LoraConfig(
        r=trained.r,
        lora_alpha=trained.lora_alpha,
        target_modules=[f"{head.base_model_prefix}.{name}" for name in layers],
        modules_to_save=own,
        # A folder by its whole path: whoever loads the adapters does so from elsewhere.
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    # peft's names: https://huggingface.co/docs/peft/developer_guides/checkpoint. It looks for the modules to save by
    # the end of their names, and wants the weights of all that it finds.
    found = tuple(f"{name}." for name, _ in head.named_modules() if name.endswith(tuple(own)))
    state = {
        f"base_model.model.{name.replace('.default', '')}": value.contiguous()
        for name, value in head.state_dict().items()
        if ".lora_" in name or name.startswith(found)
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "adapter_config.json", folder / "adapter_model.safetensors")  # not for its owner alone
    save_code(head, folder)
