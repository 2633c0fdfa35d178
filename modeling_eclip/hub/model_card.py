"""The model card of a checkpoint: made of its configuration and of what is known beside it.

Contract: [`build_model_card`] is a pure function. It says of a checkpoint what its configuration says, and measured
figures, data and licences only as they are given: nothing is claimed that nobody has told. The metadata block is
huggingface_hub's own, with the figures as `model-index`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .card_snippets import loading_snippets

GENERATED = "<!-- Made by modeling_eclip; a push takes its place. Without this line, what you write here stays. -->"
"""Line of a card that nobody has edited."""

_PAPER = (
    "Shin, Park, Woo, Cho, Oh, Song: [e-CLIP: Large-Scale Vision-Language Representation Learning in "
    "E-commerce](https://arxiv.org/abs/2207.00208), CIKM 2022"
)


@dataclass
class MetricValue:
    """One measured figure.

    Args:
        name: Its name, such as `accuracy` or `text_to_image_recall@10`.
        value: Its value.
        dataset: What it was measured on, as people call it.
        split: Which part of that.
        interval: Lowest and highest value of its 95 % interval.
        untrained: What the model had before it was trained.
    """

    name: str
    value: float
    dataset: str
    split: str
    interval: tuple[float, float] | None = None
    untrained: float | None = None


@dataclass
class CardFacts:
    """What a card says that no configuration knows; what is left out is not said.

    Args:
        license: Licence of the weights by the Hub's name for it, such as `apache-2.0`; `other` with the next two.
        license_name: Name of a licence that the Hub has no name for.
        license_link: Where that licence is, an address or a file of the repository.
        base_models: Hub ids of the models that training started from.
        data: Training data, name to licence; a name that is a Hub id, `owner/name`, is linked.
        languages: Languages of the titles, as ISO 639 codes.
        figures: What was measured.
        training: What training was, in a sentence.
        limits: Further limits, a sentence each.
        pictures: Names of picture files beside the card.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] = ()
    figures: Sequence[MetricValue] = ()
    training: str = ""
    limits: Sequence[str] = ()
    pictures: Sequence[str] = ()


@dataclass
class _Kind:
    """What is particular to a class: title and use in words, the task that figures are of, limits, and how it runs."""

    name: str
    use: str
    tasks: Mapping[str, str]
    limits: Sequence[str]
    inputs: str
    answer: str


_CLASSIFICATION = {"text": "text-classification", "image": "image-classification", "both": "image-classification"}
_EMBEDDING = {"text": "feature-extraction", "image": "image-feature-extraction", "both": "feature-extraction"}
# Pipelines of transformers that load the class itself and run it; others would fail, or leave out the head.
_PIPELINE_TAGS = {
    ("EClipModel", "both"): "zero-shot-image-classification",
    ("EClipForCategoryClassification", "both"): "text-classification",
    ("EClipForCategoryClassification", "text"): "text-classification",
}
_CLOSED = "It knows the classes of its configuration and no others, and answers with one of them whatever it is given."

_KINDS = {
    "EClipModel": _Kind(
        "e-CLIP model",
        "Embeds product titles and product images in one space: search by words or by picture, offers of one product, "
        "similar products, and a backbone for tasks on products.",
        dict.fromkeys(("text", "image", "both"), "zero-shot-image-classification"),
        ["Similarities compare products with each other; they are no probabilities."],
        "one",
        "text_embeds  # of unit length; image_embeds of images",
    ),
    "EClipForCategoryClassification": _Kind(
        "e-CLIP category classifier",
        "Finds the path of a product in a category tree.",
        _CLASSIFICATION,
        [_CLOSED],
        "one",
        "head.decode(outputs.logits)  # paths and their probabilities",
    ),
    "EClipForAttributeExtraction": _Kind(
        "e-CLIP attribute extractor",
        "Finds the values of a product's attributes, or that they are not stated.",
        _CLASSIFICATION,
        [_CLOSED],
        "one",
        "head.decode(outputs.logits)  # a value for each attribute",
    ),
    "EClipForProductMatching": _Kind(
        "e-CLIP product matcher",
        "Tells whether two offers are of one product.",
        _EMBEDDING,
        ["Its threshold was fitted to the pairs that it was validated on; pairs of another make want another one."],
        "pair",
        "head.probabilities(outputs.logits)  # that the two are one product",
    ),
    "EClipForProductClustering": _Kind(
        "e-CLIP product grouper",
        "Groups offers: those of one group are of one product.",
        _EMBEDDING,
        ["Its threshold was fitted to the offers that it was validated on; other catalogues may want another one."],
        "many",
        "head.cluster(outputs.embeds)  # the group of each offer",
    ),
    "EClipForAdultRecognition": _Kind(
        "e-CLIP recogniser of products for adults",
        "Tells the probability that a product is for adults only.",
        _CLASSIFICATION,
        ["It misses some products: it helps people who check, and does not take their place."],
        "one",
        "head.probabilities(outputs.logits)  # head.decode(outputs.logits) answers yes or no",
    ),
}
_LIMITS = (
    "It has learned from the data named below and does worse on others: measure it on yours.",
    "Titles in other languages, and pictures of other kinds than it has seen, are beyond it.",
)


def build_model_card(
    config: Mapping[str, Any],
    repo_id: str,
    facts: CardFacts,
    *,
    adapter_config: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
) -> ModelCard:
    """Write the card of a model, of a head, or of adapters.

    Args:
        config: Content of `config.json`.
        repo_id: Repository that it is for, `owner/name`.
        facts: What else is known.
        adapter_config: Content of `adapter_config.json`, of adapters.
        tags: Further tags.

    Returns:
        The card.

    Raises:
        ValueError: the configuration is of no e-CLIP class, or a figure is not a finite number.
    """
    name = next(iter(config.get("architectures") or ()), None)
    if name not in _KINDS:
        raise ValueError(f"`architectures` is {config.get('architectures')}; a card is made of one of {[*_KINDS]}.")
    for figure in facts.metrics:
        _check_figure(figure)
    kind, modality = _KINDS[name], config.get("modality", "both") if name != "EClipModel" else "both"
    title = repo_id.split("/")[-1]
    parts = [
        GENERATED,
        f"# {title}",
        f"{'Adapters (LoRA) of an' if adapter_config else 'An'} {kind.name}. {kind.use}",
        _towers(config, name, modality, adapter_config),
        "## How to load it",
        loading_snippets(name, kind.inputs, kind.answer, modality, repo_id, adapter_config),
        "## Intended use and limits",
        f"{kind.use} It is made for product titles and product pictures as shops have them.",
        "\n".join(f"- {_one_line(limit)}" for limit in [*kind.limits, *_LIMITS, *facts.limits]),
        "## Training",
        _training(facts),
        "## Evaluation",
        _figures(facts.metrics),
        *[f"![{picture.rsplit('.', 1)[0]}]({picture})" for picture in facts.pictures],
        "## Reference",
        f"The method is e-CLIP's: {_PAPER}. What the paper leaves open is this package's own.",
    ]
    data = ModelCardData(
        base_model=list(facts.base_models) or None,
        base_model_relation=_relation(facts, adapter_config),
        datasets=[data for data in facts.data if is_hub_id(data)] or None,
        eval_results=_eval_results(facts.metrics, kind.tasks[modality]) or None,
        language=list(facts.languages) or None,
        library_name="peft" if adapter_config else "transformers",
        license=facts.license,
        license_link=facts.license_link,
        license_name=facts.license_name,
        model_name=title,
        pipeline_tag=None if adapter_config else _PIPELINE_TAGS.get((name, modality)),
        tags=["e-clip", "products", "e-commerce", *(["lora"] if adapter_config else []), *tags],
    )
    if not facts.metrics:
        data.pop("model_name")  # a field of the model index
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n")


def processor_card(repo_id: str) -> ModelCard:
    """Write the card of a repository that holds a processor and no model yet."""
    data = ModelCardData(library_name="transformers", tags=["e-clip", "products", "e-commerce"])
    text = "A processor of e-CLIP: product titles and pictures to inputs."
    parts = [GENERATED, f"# {repo_id.split('/')[-1]}", text]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def is_hub_id(name: str) -> bool:
    """Tell whether this may be a Hub id with its owner: `owner/name`, in the letters that the Hub allows."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, flags=re.ASCII) is not None


def _check_figure(figure: MetricValue) -> None:
    """Refuse what is not a number: neither the Hub nor a reader can compare it."""
    for name, values in (
        ("value", [figure.value]),
        ("interval", figure.interval or []),
        ("untrained", [] if figure.untrained is None else [figure.untrained]),
    ):
        if not all(isinstance(value, Real) and math.isfinite(value) for value in values):
            raise ValueError(
                f"`{name}` of the figure {figure.name!r} is {getattr(figure, name)!r}; give finite numbers, or leave "
                "the figure out."
            )


def _relation(facts: CardFacts, adapter_config: Mapping[str, Any] | None) -> str | None:
    if not facts.base_models:
        return None
    return "adapter" if adapter_config else "finetune"


def _towers(config: Mapping[str, Any], name: str, modality: str, adapter_config: Mapping[str, Any] | None) -> str:
    """Say what it is built of."""
    rows = []
    for side, label in (("vision", "image tower"), ("text", "title tower")):
        tower = config.get(f"{side}_config") or {}
        source = tower.get("_name_or_path", "")
        start = f", from [{source}](https://huggingface.co/{source})" if is_hub_id(source) else ""
        rows.append((label, f"`{tower.get('model_type', '?')}`{start}; pooling `{config.get(f'{side}_pooling')}`"))
    if name == "EClipModel":
        rows.append(("shared space", f"{config.get('projection_dim')} dimensions"))
    else:
        rows.append(("looks at", {"text": "titles", "image": "images", "both": "titles, images or both"}[modality]))
    if config.get("category_paths"):
        rows.append(("categories", f"{len(config['category_paths'])} leaves"))
    if config.get("attributes"):
        rows.append(("attributes", ", ".join(f"{key} ({len(some)})" for key, some in config["attributes"].items())))
    if config.get("decision_threshold") is not None:
        rows.append(("decision threshold", f"{config['decision_threshold']:.3g}"))
    if adapter_config:
        rows.append(("adapters", f"rank {adapter_config.get('r')}, alpha {adapter_config.get('lora_alpha')}"))
    return _table(("part", "what it is"), rows)


def _training(facts: CardFacts) -> str:
    """Say what it has learned from, and whose that is."""
    parts = [_one_line(facts.training)]
    if facts.base_models:
        parts.append("It started from " + ", ".join(_linked(model, "") for model in facts.base_models) + ".")
    if facts.data:
        rows = [(_linked(data, "datasets/"), license or "not stated") for data, license in facts.data.items()]
        parts.append(_table(("data", "licence"), rows))
    else:
        parts.append("The training data is not stated.")
    code = "The code that comes with it is licensed under Apache-2.0."
    if facts.license is None:
        parts.append(f"The licence of the weights is not stated. {code}")
    else:
        license = _one_line(facts.license_name or facts.license)
        license = f"[{license}]({facts.license_link})" if facts.license_link else license
        parts.append(f"The weights are licensed under {license}. {code}")
    return "\n\n".join(part for part in parts if part)


def _figures(figures: Sequence[MetricValue]) -> str:
    """Show what was measured."""
    if not figures:
        return "No figures are stated."
    header = ["figure", "data", "value"]
    intervals = any(figure.interval for figure in figures)
    untrained = any(figure.untrained is not None for figure in figures)
    header += [*(["95 % interval"] if intervals else []), *(["untrained"] if untrained else [])]
    rows = []
    for figure in figures:
        row = [_words(figure.name), f"{figure.dataset}, {figure.split}", f"{figure.value:.3f}"]
        if intervals:
            row.append("{:.3f} to {:.3f}".format(*figure.interval) if figure.interval else "")
        if untrained:
            row.append("" if figure.untrained is None else f"{figure.untrained:.3f}")
        rows.append(row)
    return _table(header, rows)


def _eval_results(figures: Sequence[MetricValue], task: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task,
            dataset_type=figure.dataset if is_hub_id(figure.dataset) else _slug(figure.dataset),
            dataset_name=figure.dataset,
            dataset_split=figure.split,
            metric_type=figure.name,
            metric_name=_words(figure.name),
            metric_value=round(float(figure.value), 4),
        )
        for figure in figures
    ]


def _linked(name: str, kind: str) -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})" if is_hub_id(name) else name


def _one_line(text: str) -> str:
    """Keep what others have named in its line: an end of line would end the row or the item that it stands in."""
    return " ".join(text.split())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _slug(name: str) -> str:
    # The Hub wants a type of every data set; of a name in other letters nothing would stay.
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "custom"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *[[_one_line(cell).replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


__all__ = ["GENERATED", "CardFacts", "MetricValue", "build_model_card", "is_hub_id", "processor_card"]
