"""The one way to the Hub: a folder as `from_pretrained` reads it, with its code and its card, in one commit.

Contract: what is uploaded is complete (weights, configuration, code, card) and holds nothing else. Only files that
belong to a checkpoint go up; weights in a pickle are refused, since loading them runs what they hold; names of folders
of this machine are taken out of configurations. Weights of an earlier push that would be loaded in place of these are
deleted in the same commit. The commit comes last, after the large files: whoever loads the repository sees all of a
push or nothing of it, and a push that was interrupted, started again, does not send again what is there.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers.dynamic_module_utils import custom_object_save

from .checkpoint_files import ADAPTER_CONFIG, list_published, read_json
from .model_card import GENERATED, CardFacts, build_model_card, is_hub_id, processor_card

_CARD = "README.md"
# What `from_pretrained` looks for, by its exact names: files that are named otherwise are the user's.
_PART = "[0-9]" * 5
_WEIGHTS = (f"{{}}-{_PART}-of-{_PART}.safetensors", "{}.safetensors", "{}.safetensors.index.json")
_MODEL_FILES = [name.format("model") for name in _WEIGHTS]
_ADAPTER_FILES = [ADAPTER_CONFIG, *(name.format("adapter_model") for name in _WEIGHTS)]
# What a tokenizer keeps of how it was loaded here.
_TRACES = ("is_local", "local_files_only")
# Where configurations of parts, and of tokenizers, say that they were loaded from.
_SOURCES = ("_name_or_path", "name_or_path")


def push_to_hub(
    part: Any, repo_id: str, *, max_shard_size: int | str = "50GB", commit_message: str | None = None, **settings: Any
) -> CommitInfo:
    """Publish a model, a head, a processor, or peft's adapters around one of the first two, with a card.

    Args:
        part: What is published: an e-CLIP model or processor, or a `PeftModel` of one.
        repo_id: Repository, `owner/name`, or a name among one's own.
        max_shard_size: Size from which weights are cut into several files.
        commit_message: Message of the commit.
        **settings: As for [`publish_folder`]. Of adapters, `base_models` of the `facts` names the Hub id of the
            checkpoint that they were trained on, where that was loaded from a folder.

    Returns:
        The commit.

    Raises:
        ValueError: as for [`publish_folder`].
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if hasattr(part, "peft_config") and hasattr(part, "get_base_model"):
            part.save_pretrained(folder)
            save_code(part.get_base_model(), folder)
        elif getattr(part, "_hf_peft_config_loaded", False):  # adapters by transformers' own `add_adapter`
            part.save_pretrained(folder)
            save_code(part, folder)
        else:
            part.save_pretrained(folder, **({"max_shard_size": max_shard_size} if hasattr(part, "dtype") else {}))
        return publish_folder(
            folder, repo_id, commit_message=commit_message or f"Upload {type(part).__name__}", **settings
        )


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    files: Sequence[Path] | None = None,
    facts: CardFacts | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    new_card: bool = False,
    tags: Sequence[str] | str = (),
) -> CommitInfo:
    """Publish what `save_pretrained` has written, with a card.

    A card that somebody has edited on the Hub (its first line says how that is told) stays as it is.

    Args:
        folder: The folder.
        repo_id: Repository, `owner/name`, or a name among one's own.
        files: What [`list_published`] has found in the folder; it is called if not given.
        facts: What the card says besides; `images` are files of the folder.
        commit_message: Message of the commit.
        commit_description: Further text of it.
        private: Whether the repository is private: a new one is made so, one that is public is refused; what its
            owner has set if not given.
        token: Token of the Hub; the one that is stored if not given.
        revision: Branch, made if need be.
        create_pr: Whether to propose the change, to the main branch, in place of making it.
        new_card: Whether to write the card anew even if somebody has edited it.
        tags: Further tags of the card.

    Returns:
        The commit.

    Raises:
        ValueError: the folder is no e-CLIP checkpoint, holds weights in a pickle, lacks some of its code, or has
            adapters of a checkpoint that is not on the Hub; the Hub refuses its card; what shall be private is
            public there; or a change is to be proposed to another branch than the main one.
        ImportError: jinja2, which makes the card, is not installed.
    """
    if create_pr and revision not in (None, "main"):
        raise ValueError(f"`create_pr` proposes to the main branch, and `revision` is {revision!r}; give one of both.")
    facts = facts or CardFacts()
    tags = [tags] if isinstance(tags, str) else tags
    files = list_published(folder) if files is None else files
    api = HfApi(token=token)
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    settings = _settings(files, repo_id, facts, api)
    adapter_config = settings.get(ADAPTER_CONFIG)
    # The card is made, and shown to the Hub, before anything is there: what cannot be described is not published.
    is_processor_alone = "config.json" not in settings
    if is_processor_alone:
        card, outdated = processor_card(repo_id), None
    else:
        card = build_model_card(settings["config.json"], repo_id, facts, adapter_config=adapter_config, tags=tags)
        # Adapters may belong to the model beside them; a model takes the place of the adapters beside it.
        outdated = _ADAPTER_FILES if adapter_config else _MODEL_FILES + _ADAPTER_FILES
    card.validate()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"`private` is True, and {repo_id!r} is there already and public; make it private by "
            f"`HfApi().update_repo_settings({repo_id!r}, private=True)`, or give another repository."
        )
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    there = None if new_card else _card_on_hub(api, repo_id, revision)
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        for file in [*files, *(folder / image for image in facts.images)]:
            if file.name not in settings:
                _link(file, staged)
        for file_name, content in settings.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (staged / file_name).write_text(text, encoding="utf-8")
        if there is None or (GENERATED in there and not is_processor_alone):
            card.save(staged / _CARD)
        # A single commit: huggingface_hub cuts uploads of 250 files and more into several, and those of more than 20
        # where the Hub fails again and again. Files that are uploaded stay, though `delete_patterns` match them.
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=staged,
            commit_message=commit_message or f"Upload {folder.resolve().name}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=outdated,
        )


def save_code(model: Any, folder: Path) -> None:
    """Write a model's configuration, with what an Auto class needs to know of it, and its code, without its weights.

    Args:
        model: An e-CLIP model or head.
        folder: Where to; beside adapters, which neither peft nor transformers saves with them.
    """
    model.config.architectures = [type(model).__name__]
    model.config.auto_map = model.auto_map()
    custom_object_save(model, folder, config=model.config)
    model.config.save_pretrained(folder)


def is_on_hub(source: str, api: HfApi) -> bool:
    """Tell whether the Hub has a model of this name; a folder of this machine may have a name like an id."""
    return is_hub_id(source) and not Path(source).exists() and api.repo_exists(source)


def _settings(files: Sequence[Path], repo_id: str, facts: CardFacts, api: HfApi) -> dict[str, dict[str, Any]]:
    """Read the JSON files that are not published as they are, and return what is published of them, by their names."""
    paths = {file.name: file for file in files}
    settings: dict[str, dict[str, Any]] = {
        name: _without_traces(read_json(paths[name]), api)
        for name in ("config.json", "processor_config.json", "tokenizer_config.json")
        if name in paths
    }
    if ADAPTER_CONFIG in paths:
        settings[ADAPTER_CONFIG] = _on_hub_base(read_json(paths[ADAPTER_CONFIG]), facts, api)
        # An Auto class that loads the base model with this configuration shall look for the head's code here.
        references = settings["config.json"].get("auto_map", {})
        settings["config.json"]["auto_map"] = {
            auto_class: reference if "--" in reference else f"{repo_id}--{reference}"
            for auto_class, reference in references.items()
        }
    return settings


def _on_hub_base(adapter_config: dict[str, Any], facts: CardFacts, api: HfApi) -> dict[str, Any]:
    """Have adapters name the checkpoint that they belong to by its Hub id."""
    base = facts.base_models[0] if facts.base_models else adapter_config.get("base_model_name_or_path") or ""
    if not (is_hub_id(base) if facts.base_models else is_on_hub(base, api)):
        raise ValueError(
            f"`base_model_name_or_path` of the adapters is {base!r}, which nobody else has; publish that checkpoint "
            "first, and give its Hub id, `owner/name`, as the base model."
        )
    return adapter_config | {"base_model_name_or_path": base}


def _without_traces(settings: dict[str, Any], api: HfApi) -> dict[str, Any]:
    """Take out what tells of this machine: folders that parts came from, and how a tokenizer was loaded."""
    kept = {}
    for name, value in settings.items():
        if name in _TRACES or (name in _SOURCES and value and not is_on_hub(value, api)):
            continue
        kept[name] = _without_traces(value, api) if isinstance(value, dict) else value
    return kept


def _link(file: Path, folder: Path) -> None:
    """Put a file into a folder without copying it."""
    source, target = file.resolve(strict=True), folder / file.name
    try:
        os.link(source, target)
    except OSError:  # on another disk, or not one's own
        target.symlink_to(source)


def _card_on_hub(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    try:
        return Path(api.hf_hub_download(repo_id, _CARD, revision=revision)).read_text(encoding="utf-8")
    except RemoteEntryNotFoundError:
        return None


__all__ = ["is_on_hub", "publish_folder", "push_to_hub", "save_code"]
