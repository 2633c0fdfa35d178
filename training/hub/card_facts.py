"""What a run has left beside a checkpoint -> what its card tells; the way of train.py, finetune.py and publish.py.

The metrics are those of `report.json`: of pre-training (retrieval among held-out offers, beside the untrained
model's), of fine-tuning (the task's, on validation), and of `evaluate_tasks.py`, with intervals, where its
report is given.
"""

import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError

from modeling_eclip import EClipProcessor
from modeling_eclip.hub.checkpoint_files import ADAPTER_CONFIG, list_published, read_json
from modeling_eclip.hub.model_card import CardFacts, MetricValue, build_model_card, is_hub_id
from modeling_eclip.hub.publishing import is_on_hub, publish_folder
from training.arguments.card import CardArguments
from training.arguments.publish import PublishArguments
from training.arguments.sources import JOINED, plain_sources

__all__ = ["checkpoint_facts", "publish", "publish_checkpoint"]

logger = logging.getLogger("training")

_COUNTS = ("samples",)  # reported beside metrics, and none itself
_TOY = "generated products"
_T = TypeVar("_T")
_METHODS = {"linear": "a linear probe of frozen towers", "full": "all weights", "lora": "adapters (LoRA)"}


def publish_checkpoint(
    folder: Path,
    repo_id: str,
    arguments: CardArguments,
    *,
    evaluation: str | None = None,
    evaluated_on: str | None = None,
    **settings: Any,
) -> CommitInfo:
    """Publish a checkpoint with all that is known of it.

    Args:
        folder: What training has written: a model, a head, or adapters.
        repo_id: Repository, `owner/name`, or a name among one's own.
        arguments: What the card says that no file tells.
        evaluation: `report.json` of `evaluate_tasks.py`.
        evaluated_on: Name of the data that metrics were measured on.
        **settings: As for [`publish_folder`]: `private`, `revision`, `commit_message`, ...

    Returns:
        The commit.

    Raises:
        ValueError: it is no checkpoint, holds what is not published (see `publish_folder`), or has no processor.
    """
    files = list_published(folder)
    _check_processor(folder, files)
    facts = checkpoint_facts(folder, arguments, evaluation=evaluation, evaluated_on=evaluated_on)
    if not arguments.base_models:
        facts.base_models = _known_to_hub(facts.base_models)
    if facts.license is None:
        logger.warning("the card states no licence; give `--license`, such as apache-2.0, for others to use it")
    left_out = sorted({path.name for path in folder.iterdir()} - {path.name for path in files} - {*facts.images})
    if left_out:
        logger.info("not published: %s", ", ".join(left_out))
    commit = publish_folder(folder, repo_id, files=files, facts=facts, **settings)
    logger.info("published: %s", commit.commit_url)
    return commit


def publish(arguments: PublishArguments) -> None:
    """Publish what `publish.py` is given, or show what would be published.

    Args:
        arguments: The checkpoint, the repository, and what the card says.

    Raises:
        ValueError: As for [`publish_checkpoint`].
        HfHubHTTPError: The Hub refuses; the message says how to log in where that is the reason.
    """
    folder, evaluation, evaluated_on = Path(arguments.checkpoint), arguments.evaluation, arguments.evaluated_on
    if arguments.dry_run:
        _show(
            folder,
            arguments.repo,
            checkpoint_facts(folder, arguments, evaluation=evaluation, evaluated_on=evaluated_on),
        )
        return
    try:
        publish_checkpoint(
            folder,
            arguments.repo,
            arguments,
            private=arguments.private or None,
            revision=arguments.revision,
            commit_message=arguments.commit_message,
            create_pr=arguments.create_pr,
            evaluation=evaluation,
            evaluated_on=evaluated_on,
            new_card=arguments.new_card,
        )
    except HfHubHTTPError as error:
        if error.response.status_code == 401:  # where the Hub wants a token, it does not say how to give one
            raise ValueError(f"{error} Log in with `hf auth login`, or set HF_TOKEN.") from error
        raise
    except ValueError as error:  # the Hub's own of a card that it refuses is about the arguments, too
        raise ValueError(str(error)) from error


def _show(folder: Path, repo_id: str, facts: CardFacts) -> None:
    """Print the card and the files, without asking the Hub for anything."""
    files = list_published(folder)
    _check_processor(folder, files)
    settings = {file.name: read_json(file) for file in files if file.name in ("config.json", ADAPTER_CONFIG)}
    if (adapters := settings.get(ADAPTER_CONFIG)) is not None:
        base = facts.base_models[0] if facts.base_models else adapters.get("base_model_name_or_path") or ""
        if not facts.base_models:
            logger.warning("the adapters belong to %r; publish that first, and name it by `--base_models`", base)
        adapters["base_model_name_or_path"] = base
    print(build_model_card(settings["config.json"], repo_id, facts, adapter_config=adapters))
    for file in [*files, *(folder / image for image in facts.images)]:
        print(f"{file.stat().st_size:>14,} bytes  {file.name}")


def checkpoint_facts(
    folder: Path, arguments: CardArguments, *, evaluation: str | None = None, evaluated_on: str | None = None
) -> CardFacts:
    """Gather what the card of a checkpoint says; arguments as for [`publish_checkpoint`].

    Returns:
        The facts. Base models that no argument names are those that the files beside the checkpoint name, as far as
        they look like Hub ids.

    Raises:
        ValueError: a report is no JSON, lacks what it is read for, or, that of `evaluation`, has no such checkpoint.
    """
    settings = _read_if_there(folder / "arguments.json")
    report = _Report(folder / "report.json")
    return CardFacts(
        license=arguments.license,
        license_name=arguments.license_name,
        license_link=arguments.license_link,
        base_models=arguments.base_models or _sources(folder, settings),
        data=dict(entry.split("=", 1) for entry in arguments.card_data) or _generated_data(settings),
        languages=arguments.card_languages,
        metrics=[
            *_own_metrics(report, evaluated_on or _data_name(settings.get("validation_data") or [])),
            *(_evaluated_metrics(evaluation, folder, evaluated_on, settings) if evaluation else []),
        ],
        training=_training(report, settings) + _fields(folder),
        limits=arguments.card_limits,
        images=sorted(path.name for path in folder.glob("*.png")),
    )


def _check_processor(folder: Path, published: Sequence[Path]) -> None:
    """Refuse a model whose processor does not load from what is published: its card would promise it."""
    with tempfile.TemporaryDirectory() as name:
        for path in published:
            if path.suffix != ".safetensors":
                shutil.copy(path, name)
        try:
            EClipProcessor.from_pretrained(name, local_files_only=True)
        except Exception as error:  # tokenizers raises no narrower one
            reason = str(error).partition("\n")[0].replace(name, str(folder))
            raise ValueError(
                f"{str(folder)!r} has no processor and tokenizer that load ({reason}); write them there with "
                "`save_pretrained` of the EClipProcessor that the model was trained with."
            ) from error


class _Report:
    """What a report says; a field that is not as it should be is named with its file."""

    def __init__(self, path: Path, content: dict[str, Any] | None = None):
        self.path, self.content = path, _read_if_there(path) if content is None else content

    def __contains__(self, name: str) -> bool:
        return name in self.content

    def field(self, name: str, kind: type[_T]) -> _T:
        """Return a field of this type."""
        value = self.content.get(name)
        if not isinstance(value, kind):
            raise ValueError(
                f"`{name}` of {str(self.path)!r} is {value!r}; write the report again with what has written it, or "
                "delete it, and the card states no metrics."
            )
        return value

    def part(self, name: str) -> "_Report":
        """Return a field that holds fields."""
        return _Report(self.path, self.field(name, dict))


def _own_metrics(report: _Report, dataset: str) -> list[MetricValue]:
    """Read what the training itself has measured."""
    if "trained" in report:
        before = report.field("untrained", dict) if "untrained" in report else {}
        return [
            MetricValue(
                name, value, dataset, "validation", untrained=before[name] if _is_number(before.get(name)) else None
            )
            for name, value in report.field("trained", dict).items()
            if name not in _COUNTS and not name.startswith("chance") and _is_number(value)
        ]
    found = report.field("validation", dict) if "validation" in report else {}
    return [MetricValue(name, value, dataset, "validation") for name, value in found.items() if _is_number(value)]


def _evaluated_metrics(
    path: str, folder: Path, evaluated_on: str | None, settings: dict[str, Any]
) -> list[MetricValue]:
    """Read what `evaluate_tasks.py` has measured of this checkpoint."""
    if not Path(path).is_file():
        raise ValueError(f"`evaluation` is {path!r}, which is no file; give the report.json of evaluate_tasks.py.")
    report = _Report(Path(path))
    checkpoint = next((name for name in report.content if Path(name).resolve() == folder.resolve()), None)
    if checkpoint is None:
        raise ValueError(
            f"`evaluation` is {path!r}, which has metrics of {[*report.content]} and none of {str(folder)!r}."
        )
    measured = report.part(checkpoint)
    dataset = evaluated_on or _data_name(settings.get("test_data") or [])
    if "metrics" not in measured:
        numbers = {name: value for name, value in measured.content.items() if _is_number(value)}
        return [
            MetricValue(*number, dataset, "test") for number in numbers.items() if not number[0].startswith("chance")
        ]
    reported, metrics = measured.part("metrics"), []
    for name in reported.content:
        value, low, high = (reported.field(name, dict).get(of) for of in ("value", "low", "high"))
        if _is_number(value):
            interval = (low, high) if _is_number(low) and _is_number(high) else None
            metrics.append(MetricValue(name, value, dataset, measured.field("split", str), interval=interval))
    return metrics


def _training(report: _Report, settings: dict[str, Any]) -> str:
    """Say in a sentence what training was."""
    if "trained" in report:
        return f"Trained by contrast of titles and images on {report.field('samples', int):,} samples."
    if "task" in report:
        task = report.field("task", str)
        if settings.get("join"):
            return f"Put together of two heads for the task `{task}`, one of titles and one of images."
        share = report.content.get("label_share", 1.0)
        of_labels = f" ({share:.0%} of the labels)" if _is_number(share) and share != 1 else ""
        method = _METHODS.get(report.field("method", str), report.field("method", str))
        return f"Trained for the task `{task}` on {report.field('rows', int):,} labelled rows{of_labels}: {method}."
    return ""


def _fields(folder: Path) -> str:
    """Say which texts and images of an offer were used, where there were several."""
    fields = _read_if_there(folder / "processor_config.json").get("fields") or {}
    named = {kind: [name for name, _ in pairs if name != JOINED] for kind, pairs in fields.items()}
    told = [f"its {kind}s are {', '.join(f'`{name}`' for name in names)}" for kind, names in sorted(named.items())]
    return f" Of an offer, {' and '.join(told)}." if told else ""


def _sources(folder: Path, settings: dict[str, Any]) -> list[str]:
    """Find what training started from, nearest first: one model, or two towers."""
    config = _read_if_there(folder / "config.json")
    towers = [(config.get(f"{tower}_config") or {}).get("_name_or_path") for tower in ("vision", "text")]
    adapters = _read_if_there(folder / "adapter_config.json").get("base_model_name_or_path")
    for sources in ([adapters], [settings.get("checkpoint")], [settings.get("clip")], towers):
        named = [source for source in sources if source]
        if named:
            return [name for name in dict.fromkeys(named) if is_hub_id(name) and not Path(name).exists()]
    return []


def _known_to_hub(names: Sequence[str]) -> list[str]:
    """Keep the models that the Hub has, and warn of the others."""
    api = HfApi()
    known = [name for name in names if is_on_hub(name, api)]
    for name in names:
        if name not in known:
            logger.warning("the Hub has no model %r; name what training started from by `--base_models`", name)
    return known


def _data_name(sources: Sequence[str]) -> str:
    """Name data without telling where it lies on this machine."""
    names = []
    for source in plain_sources(sources):
        path = Path(source)
        is_dataset = is_hub_id(source) and not path.exists()
        folder = path.parent.name or path.stem
        names.append(_TOY if source == "toy" else source if is_dataset else folder if path.suffix else path.name)
    return ", ".join(dict.fromkeys(names)) or "held-out offers"


def _generated_data(settings: dict[str, Any]) -> dict[str, str]:
    """Name the one kind of data whose licence is known, being this package's own."""
    return {_TOY: "apache-2.0"} if settings.get("train_data") == ["toy"] else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_if_there(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path)
