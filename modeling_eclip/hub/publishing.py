"""The one way to the Hub: a folder as `from_pretrained` reads it, with its code and its card, in one commit.

Contract: what is uploaded is complete (weights, configuration, code, card) and holds nothing else. Only files that
belong to a checkpoint go up; weights in a pickle are refused, since loading them runs what they hold; names of folders
of this machine are taken out of configurations. Weights of an earlier push that would be loaded in place of these are
deleted in the same commit. Large files go first and the commit last: whoever loads the repository
sees all of a push or nothing of it, and a push that was interrupted, started again, does not send again what is there.
"""

import json
import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers.dynamic_module_utils import custom_object_save

from .checkpoint_files import ADAPTER_CONFIG, list_published, read_json
from .model_card import GENERATED, CardFacts, build_model_card, is_hub_id, processor_card

_CARD = "README.md"
# What `from_pretrained` looks for, by its exact names: files that are named otherwise are the user's.
_MODEL_FILES = r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
_ADAPTER_FILES = (
    r"adapter_config\.json|adapter_model(-\d{5}-of-\d{5})?\.safetensors|adapter_model\.safetensors\.index\.json"
)
# What a tokenizer keeps of how it was loaded here.
_TRACES = ("is_local", "local_files_only")
# Where configurations of parts, and of tokenizers, say that they were loaded from.
_SOURCES = ("_name_or_path", "name_or_path")


def push_to_hub(
    part: Any,
    repo_id: str,
    *,
    facts: CardFacts | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: Sequence[str] | str = (),
) -> CommitInfo:
    """Publish a model, a head, a processor, or peft's adapters around one of the first two, with a card.

    Args:
        part: What is published: an e-CLIP model or processor, or a `PeftModel` of one.
        repo_id: Repository, `owner/name`, or a name among one's own.
        facts: What the card says besides; of adapters its `base_models` names the Hub id of the checkpoint that they
            were trained on, where that was loaded from a folder.
        commit_message: Message of the commit.
        commit_description: Further text of it.
        private: Whether the repository is private: a new one is made so, one that is public is refused; what its
            owner has set if not given.
        token: Token of the Hub; the one that is stored if not given.
        revision: Branch, made if need be.
        create_pr: Whether to propose the change in place of making it.
        max_shard_size: Size from which weights are cut into several files.
        tags: Further tags of the card.

    Returns:
        The commit.

    Raises:
        ValueError: adapters belong to a checkpoint that is not on the Hub, or what shall be private is public there.
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
            folder,
            repo_id,
            facts=facts,
            commit_message=commit_message or f"Upload {type(part).__name__}",
            commit_description=commit_description,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            tags=[tags] if isinstance(tags, str) else tags,
        )


def publish_folder(
    folder: Path,
    repo_id: str,
    *,
    facts: CardFacts | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    new_card: bool = False,
    tags: Sequence[str] = (),
) -> CommitInfo:
    """Publish what `save_pretrained` has written, with a card.

    A card that somebody has edited on the Hub (its first line says how that is told) stays as it is.

    Args:
        folder: The folder.
        repo_id: As for [`push_to_hub`], and so are all that are not named here.
        facts: See there; `pictures` are files of the folder.
        commit_message: See there.
        commit_description: See there.
        private: See there.
        token: See there.
        revision: See there.
        create_pr: See there.
        new_card: Whether to write the card anew even if somebody has edited it.
        tags: See there.

    Returns:
        The commit.

    Raises:
        ValueError: the folder is no e-CLIP checkpoint, holds weights in a pickle, lacks some of its code, or has
            adapters of a checkpoint that is not on the Hub; the Hub refuses its card; or what shall be private is
            public there.
    """
    facts = facts or CardFacts()
    files = list_published(folder)
    api = HfApi(token=token)
    contents: dict[str, bytes | str] = {file.name: str(file) for file in files}
    adapter_config = None
    settings = {
        name: _without_traces(read_json(folder / name), api)
        for name in ("config.json", "processor_config.json", "tokenizer_config.json")
        if name in contents
    }
    contents |= {name: _json_bytes(content) for name, content in settings.items()}
    for name in facts.pictures:
        contents[name] = str(folder / name)

    if ADAPTER_CONFIG in contents:
        adapter_config = _on_hub_base(read_json(folder / ADAPTER_CONFIG), facts, api)
        contents[ADAPTER_CONFIG] = _json_bytes(adapter_config)
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    if adapter_config is not None and "config.json" in settings:
        # An Auto class that loads the base model with this configuration shall look for the head's code here.
        references = settings["config.json"].get("auto_map", {})
        settings["config.json"]["auto_map"] = {
            auto_class: reference if "--" in reference else f"{repo_id}--{reference}"
            for auto_class, reference in references.items()
        }
        contents["config.json"] = _json_bytes(settings["config.json"])
    # The card is made, and shown to the Hub, before anything is there: what cannot be described is not published.
    is_processor_alone = "config.json" not in settings
    if is_processor_alone:
        card = str(processor_card(repo_id))
    else:
        card = str(build_model_card(settings["config.json"], repo_id, facts, adapter_config=adapter_config, tags=tags))
    ModelCard(card).validate()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"`private` is True, and {repo_id!r} is there already and public; make it private by "
            f"`HfApi().update_repo_settings({repo_id!r}, private=True)`, or give another repository."
        )
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    there = None if new_card else _card_on_hub(api, repo_id, revision)
    if there is None or (GENERATED in there and not is_processor_alone):
        contents[_CARD] = card.encode()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in sorted(contents.items())
    ]
    if not is_processor_alone:
        outdated = _outdated(api.list_repo_files(repo_id, revision=revision), contents)
        operations += [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in outdated]
    return api.create_commit(
        repo_id,
        operations,
        commit_message=commit_message or f"Upload {folder.resolve().name}",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
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


def _on_hub_base(adapter_config: dict[str, Any], facts: CardFacts, api: HfApi) -> dict[str, Any]:
    """Have adapters name the checkpoint that they belong to by its Hub id."""
    base = facts.base_models[0] if facts.base_models else adapter_config.get("base_model_name_or_path") or ""
    if not is_hub_id(base) or not (facts.base_models or api.repo_exists(base)):  # a folder may look like an id
        raise ValueError(
            f"`base_model_name_or_path` of the adapters is {base!r}, which nobody else has; publish that checkpoint "
            "first, and give its Hub id, `owner/name`, as the base model."
        )
    return adapter_config | {"base_model_name_or_path": base}


def _without_traces(settings: dict[str, Any], api: HfApi) -> dict[str, Any]:
    """Take out what tells of this machine: folders that parts came from, and how a tokenizer was loaded."""
    kept = {}
    for name, value in settings.items():
        if name in _TRACES or (name in _SOURCES and value and not _is_on_hub(value, api)):
            continue
        kept[name] = _without_traces(value, api) if isinstance(value, dict) else value
    return kept


def _is_on_hub(source: str, api: HfApi) -> bool:
    # A folder may look like an id, here or where the model was trained.
    return is_hub_id(source) and not Path(source).exists() and api.repo_exists(source)


def _outdated(there: Sequence[str], pushed: Collection[str]) -> list[str]:
    """List the weights of a repository that `from_pretrained` might load in place of those that are pushed."""
    # Adapters may belong to the model beside them; a model has taken the place of the adapters beside it.
    kinds = _ADAPTER_FILES if ADAPTER_CONFIG in pushed else f"{_MODEL_FILES}|{_ADAPTER_FILES}"
    return sorted(name for name in there if name not in pushed and re.fullmatch(kinds, name))


def _card_on_hub(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    try:
        return Path(api.hf_hub_download(repo_id, _CARD, revision=revision)).read_text(encoding="utf-8")
    except RemoteEntryNotFoundError:
        return None


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


__all__ = ["publish_folder", "push_to_hub", "save_code"]
