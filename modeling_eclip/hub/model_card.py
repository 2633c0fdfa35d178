"""The model card of a checkpoint: facts -> variables of model_card_template.md -> huggingface_hub's `ModelCard`.

Contract: [`build_model_card`] is a pure function. The card says what the configuration says; it states metrics, data
and licences only as they are given. The metadata block is huggingface_hub's own, with the metrics as `model-index`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..pipelines_eclip import (
    CLASSIFICATION,
    MATCHING,
    EClipProductClassificationPipeline,
    EClipProductMatchingPipeline,
)

GENERATED = "<!-- Made by modeling_eclip; a push takes its place. Without this line, what you write here stays. -->"
"""Line of a card that nobody has edited."""

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_TAGS = ("e-clip", "products", "e-commerce")


@dataclass
class MetricValue:
    """One measured metric.

    Args:
        name: Its name, such as `accuracy` or `text_to_image_recall@10`.
        value: Its value.
        dataset: What it was measured on, as people call it.
        split: Which part of that.
        interval: Lowest and highest value of its 95 % interval.
        untrained: Its value before training.
    """

    name: str
    value: float
    dataset: str
    split: str
    interval: tuple[float, float] | None = None
    untrained: float | None = None


@dataclass
class CardFacts:
    """What a card says that is not in the configuration; what is left out is not said.

    Args:
        license: Licence of the weights by the Hub's name for it, such as `apache-2.0`; `other` with the next two.
        license_name: Name of a licence that the Hub has no name for.
        license_link: Where that licence is, an address or a file of the repository.
        base_models: Hub ids of the models that training started from.
        data: Training data, name to licence; a name that is a Hub id, `owner/name`, is linked.
        languages: Languages of the titles, as ISO 639 codes.
        metrics: What was measured.
        training: What training was, in a sentence.
        limits: Further limits, a sentence each.
        images: Names of image files beside the card, such as plots.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_models: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    languages: Sequence[str] = ()
    metrics: Sequence[MetricValue] = ()
    training: str = ""
    limits: Sequence[str] = ()
    images: Sequence[str] = ()


@dataclass
class CardText:
    """What the card says of one class of models.

    Args:
        name: What it is, in words.
        use: What it is for, in a sentence or two.
        tasks: The Hub's name of its task, by the modality that it looks at: its metrics are of that task.
        limits: What it cannot do, a sentence each.
        answer: Python expression of its answer, from `outputs` and `head`, by what travels with a checkpoint.
        inputs: What it looks at in a call: "one" product, a "pair" of them, or "many".
        has_stock_pipeline: Whether transformers' own pipeline of its task loads this class and runs it.
        with_package: What it can do besides where the package is installed, in a sentence.
    """

    name: str
    use: str
    tasks: Mapping[str, str]
    limits: Sequence[str]
    answer: str
    inputs: str = "one"
    has_stock_pipeline: bool = False
    with_package: str = ""


_CLASSIFICATION = {"text": "text-classification", "image": "image-classification", "both": "image-classification"}
_EMBEDDING = {"text": "feature-extraction", "image": "image-feature-extraction", "both": "feature-extraction"}
_CLOSED = "It knows the classes of its configuration and no others: every product is given one of them."

CARD_TEXTS = {
    "EClipModel": CardText(
        name="e-CLIP model",
        use="Embeds product titles and product images in one space: search by words or by image, offers of one "
        "product, similar products, and a backbone for tasks on products.",
        tasks=dict.fromkeys(("text", "image", "both"), "zero-shot-image-classification"),
        limits=["Similarities compare products with each other; they are no probabilities."],
        answer="outputs.text_embeds  # of unit length; image_embeds of images",
        has_stock_pipeline=True,
    ),
    "EClipForCategoryClassification": CardText(
        name="e-CLIP category classifier",
        use="Finds the path of a product in a category tree.",
        tasks=_CLASSIFICATION,
        limits=[_CLOSED],
        answer="head.decode(outputs.logits)  # paths and their probabilities",
    ),
    "EClipForAttributeExtraction": CardText(
        name="e-CLIP attribute extractor",
        use="Finds the values of a product's attributes, or that they are not stated.",
        tasks=_CLASSIFICATION,
        limits=[_CLOSED],
        answer="head.decode(outputs.logits)  # a value for each attribute",
    ),
    "EClipForProductMatching": CardText(
        name="e-CLIP product matcher",
        use="Tells whether two offers are of one product.",
        tasks=_EMBEDDING,
        limits=["Its threshold was fitted to its validation pairs; other kinds of pairs may need another one."],
        answer="head.probabilities(outputs.logits)  # that the two are one product",
        inputs="pair",
        with_package="There, `head.candidates(head.represent_products(processor, offers))` also finds which pairs of "
        "many offers are worth comparing.",
    ),
    "EClipForProductClustering": CardText(
        name="e-CLIP product grouper",
        use="Groups offers: those of one group are of one product.",
        tasks=_EMBEDDING,
        limits=["Its threshold was fitted to its validation offers; other product data may need another one."],
        answer="outputs.embeds  # of unit length: the dot product of two offers is their similarity",
        inputs="many",
        has_stock_pipeline=True,
        with_package="There, `head.cluster(outputs.embeds, products=outputs.products)` gives each offer's group.",
    ),
    "EClipForAdultRecognition": CardText(
        name="e-CLIP recogniser of products for adults",
        use="Tells the probability that a product is for adults only.",
        tasks=_CLASSIFICATION,
        limits=["It misses some products: it helps people who check, and does not take their place."],
        answer="head.probabilities(outputs.logits)  # head.decode(outputs.logits) answers yes or no",
    ),
}
"""What cards say of each class, by its name."""

_LIMITS = (
    "It has learned from the data named below and does worse on others: measure it on yours.",
    "Expect poor results on languages of titles and on kinds of images that its training data does not have.",
)
# What the snippets show it, by modality: for the processor, and for a pipeline.
_ONE = {"text": 'text=["a red shoe"]', "image": 'images=["shoe.jpg"]', "both": 'text=["a red shoe"]'}
_MANY = {
    "text": 'text=["a red shoe", "red shoe, size 9"]',
    "image": 'images=["shoe.jpg", "shoe.jpg"]',
    "both": 'text=["a red shoe", "red shoe, size 9"]',
}
_PRODUCT = {
    "text": '"a red shoe"',
    "image": '{"image": "shoe.jpg"}',
    "both": '{"text": "a red shoe", "image": "shoe.jpg"}',
}


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
        ValueError: the configuration is of no e-CLIP class, or a metric is not a finite number.
        ImportError: jinja2 is not installed.
    """
    name = next(iter(config.get("architectures") or ()), None)
    if name not in CARD_TEXTS:
        raise ValueError(
            f"`architectures` is {config.get('architectures')}; a card is made of one of {[*CARD_TEXTS]}."
        )
    for metric in facts.metrics:
        _check_metric(metric)
    kind, modality = CARD_TEXTS[name], config.get("modality", "both") if name != "EClipModel" else "both"
    title = repo_id.split("/")[-1]
    data = ModelCardData(
        base_model=list(facts.base_models) or None,
        base_model_relation=("adapter" if adapter_config else "finetune") if facts.base_models else None,
        datasets=[data for data in facts.data if is_hub_id(data)] or None,
        eval_results=[_eval_result(metric, kind.tasks[modality]) for metric in facts.metrics] or None,
        language=list(facts.languages) or None,
        library_name="peft" if adapter_config else "transformers",
        license=facts.license,
        license_link=facts.license_link,
        license_name=facts.license_name,
        model_name=title if facts.metrics else None,  # a field of the model index
        pipeline_tag=kind.tasks[modality] if kind.has_stock_pipeline and not adapter_config else None,
        tags=[*_TAGS, *(["lora"] if adapter_config else []), *tags],
    )
    licence = " ".join((facts.license_name or facts.license or "").split())
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        generated=GENERATED,
        title=title,
        repo_id=repo_id,
        class_name=name,
        kind=kind,
        modality=modality,
        base=adapter_config["base_model_name_or_path"] if adapter_config else None,
        parts=_parts(config, name, modality, adapter_config),
        variable="model" if name == "EClipModel" else "head",
        example=(_ONE if kind.inputs == "one" else _MANY)[modality],
        pipeline=_pipeline(name, modality),
        limits=[*kind.limits, *_LIMITS, *facts.limits],
        training=facts.training,
        base_models=[_linked(model) for model in facts.base_models],
        data=[(_linked(data, "datasets/"), license or "not stated") for data, license in facts.data.items()],
        licence=f"[{licence}]({facts.license_link})" if facts.license_link else licence,
        metrics=_metric_table(facts.metrics),
        images=facts.images,
    )


def processor_card(repo_id: str) -> ModelCard:
    """Write the card of a repository that holds a processor and no model yet."""
    data = ModelCardData(library_name="transformers", tags=[*_TAGS])
    text = "A processor of e-CLIP: product titles and images to inputs."
    parts = [f"---\n{data.to_yaml()}\n---", GENERATED, f"# {repo_id.split('/')[-1]}", text]
    return ModelCard("\n\n".join(parts) + "\n")


def is_hub_id(name: str) -> bool:
    """Tell whether this may be a Hub id with its owner: `owner/name`, in the letters that the Hub allows."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, flags=re.ASCII) is not None


def _check_metric(metric: MetricValue) -> None:
    """Refuse what is not a number: neither the Hub nor a reader can compare it."""
    for name, values in (
        ("value", [metric.value]),
        ("interval", metric.interval or []),
        ("untrained", [] if metric.untrained is None else [metric.untrained]),
    ):
        if not all(isinstance(value, Real) and math.isfinite(value) for value in values):
            raise ValueError(
                f"`{name}` of the metric {metric.name!r} is {getattr(metric, name)!r}; give finite numbers, or leave "
                "the metric out."
            )


def _parts(
    config: Mapping[str, Any], name: str, modality: str, adapter_config: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """Say what it is built of: pairs of a part and what that is."""
    rows = []
    for tower_name, label in (("vision", "image tower"), ("text", "title tower")):
        tower = config.get(f"{tower_name}_config") or {}
        source = tower.get("_name_or_path", "")
        start = f", from {_linked(source)}" if is_hub_id(source) else ""
        pooling = config.get(f"{tower_name}_pooling")
        rows.append((label, f"`{tower.get('model_type', '?')}`{start}; pooling `{pooling}`"))
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
        rows.append(("belongs to", _linked(adapter_config["base_model_name_or_path"])))
        rows.append(("adapters", f"rank {adapter_config.get('r')}, alpha {adapter_config.get('lora_alpha')}"))
    return rows


def _pipeline(name: str, modality: str) -> dict[str, str] | None:
    """Return how to call this package's pipeline for a head, `None` where there is none."""
    product = _PRODUCT[modality]
    if name in EClipProductMatchingPipeline.heads:
        return {"task": MATCHING, "variable": "match", "example": f"({product}, {product})"}
    if name in EClipProductClassificationPipeline.heads:
        return {"task": CLASSIFICATION, "variable": "classify", "example": product}
    return None


def _metric_table(metrics: Sequence[MetricValue]) -> list[list[str]]:
    """Return the table of metrics, its header first, with the columns that have something in them."""
    intervals = [metric.interval for metric in metrics]
    columns = {
        "metric": [_words(metric.name) for metric in metrics],
        "data": [f"{metric.dataset}, {metric.split}" for metric in metrics],
        "value": [f"{metric.value:.3f}" for metric in metrics],
        "95 % interval": ["{:.3f} to {:.3f}".format(*interval) if interval else "" for interval in intervals],
        "untrained": ["" if metric.untrained is None else f"{metric.untrained:.3f}" for metric in metrics],
    }
    filled = {name: values for name, values in columns.items() if any(values)}
    return [[*filled], *map(list, zip(*filled.values(), strict=True))] if metrics else []


def _eval_result(metric: MetricValue, task: str) -> EvalResult:
    # The Hub requires a type of every data set; a name in other letters has no slug.
    slug = re.sub(r"[^a-z0-9]+", "-", metric.dataset.lower()).strip("-") or "custom"
    return EvalResult(
        task_type=task,
        dataset_type=metric.dataset if is_hub_id(metric.dataset) else slug,
        dataset_name=metric.dataset,
        dataset_split=metric.split,
        metric_type=metric.name,
        metric_name=_words(metric.name),
        metric_value=round(float(metric.value), 4),
    )


def _linked(name: str, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})" if is_hub_id(name) else name


def _words(name: str) -> str:
    return name.replace("_", " ")


__all__ = [
    "CARD_TEXTS",
    "GENERATED",
    "CardFacts",
    "CardText",
    "MetricValue",
    "build_model_card",
    "is_hub_id",
    "processor_card",
]
