"""Heads: built on any start of a model, joined from two, or loaded as fine-tuning saved them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import find_adapter_config_file

from modeling_eclip import EClipConfig, EClipModel
from modeling_eclip.fusion_eclip import LexicalLinear, PairEvidence
from modeling_eclip.representation_eclip import EClipTaskModel
from training.arguments.model import ModelArguments
from training.engine.adapter_files import load_eclip, load_merged, refuse_adapters
from training.engine.build import build_model, source_of
from training.engine.new_weights import expect_new_weights
from training.tasks.task import Task

__all__ = ["build_head", "forget_lexical", "freeze_unused", "head_without_training", "join_heads", "load_head"]


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
        refuse_adapters(arguments.checkpoint)
        with expect_new_weights():
            return head_class.from_pretrained(arguments.checkpoint, dtype=torch.float32, **fields)
    return _head_on(head_class, build_model(arguments, tokenizer, seed=seed), fields)


def head_without_training(head_class: type[EClipTaskModel], folder: str, **fields: Any) -> EClipTaskModel:
    """Put a head on a checkpoint, for what it can answer untrained.

    Args:
        head_class: The head.
        folder: Folder or Hub id, of a whole model or of adapters.
        **fields: Fields of the configuration that the head reads.

    Returns:
        The head in float32, in evaluation mode.
    """
    if find_adapter_config_file(folder) is None:
        return head_class.from_pretrained(folder, dtype=torch.float32, **fields).eval()
    return _head_on(head_class, load_eclip(folder), fields).eval()


def _head_on(head_class: type[EClipTaskModel], model: EClipModel, fields: dict[str, Any]) -> EClipTaskModel:
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
    return load_merged(folder)
