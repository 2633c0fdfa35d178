"""Heads as pipelines of transformers: a product, or two, in; labels with scores out.

    pipeline("eclip-product-classification", model=checkpoint, trust_remote_code=True)
    pipeline("eclip-product-matching", model=checkpoint, trust_remote_code=True)

Contract: a product is a title, an image, or `{"text": title, "image": image}`, or has several, see `read_product`; one
that lacks a modality is judged by the other. Scores are the head's probabilities, calibrated where it is, and its
decision comes first, by its threshold where it has one. The decision of a head with `review_below` may be "sent to
review"; its score is the probability that the answer after it, which the head proposes, is wrong. Checkpoints of heads
name their pipeline (`custom_pipelines`), and importing the package registers both, for models at hand.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

from .processing_eclip import read_product
from .representation_eclip import SENT_TO_REVIEW

_Answers = list[dict[str, Any]]
# What the pipelines are called in transformers.
CLASSIFICATION, MATCHING = "eclip-product-classification", "eclip-product-matching"


def custom_pipelines_of(head_class: type) -> dict[str, dict[str, Any]]:
    """Tell what goes into `config.custom_pipelines` of a checkpoint.

    Args:
        head_class: Class of the head.

    Returns:
        `{task: {"impl": "module.Class", "pt": ["AutoModel"]}}`; empty for a head that has no pipeline.
    """
    for task, pipeline_class in _PIPELINES.items():
        if head_class.__name__ in pipeline_class.heads:
            module = pipeline_class.__module__.rpartition(".")[2]
            return {task: {"impl": f"{module}.{pipeline_class.__name__}", "pt": ["AutoModel"]}}
    return {}


def register_pipelines() -> None:
    """Register the pipelines with transformers, for models at hand and checkpoints that do not name theirs."""
    for task, pipeline_class in _PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=AutoModel, type="multimodal")


class _ProductPipeline(Pipeline):
    """What both pipelines have in common: products are read, heads see them, the processor is saved along."""

    heads: tuple[str, ...] = ()
    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        """See [`~transformers.Pipeline`].

        Raises:
            ValueError: the model is none of the heads that the pipeline is for, or there is no processor.
        """
        super().__init__(*args, **kwargs)
        name = type(self.model).__name__
        if name not in self.heads:
            raise ValueError(f"`model` is of {name}; give {self.task!r} one of {', '.join(self.heads)}.")
        if self.processor is None:
            raise ValueError("`processor` is None; give the EClipProcessor of the checkpoint.")

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := [name for name in kwargs if name != "top_k"]:
            raise ValueError(f"received {unknown[0]!r}, which {self.task!r} does not know; it takes 'top_k'.")
        top_k = kwargs.get("top_k", 1)
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"`top_k` is {top_k!r}; give a positive number of labels, or None for all of them.")
        return {}, {}, ({"top_k": top_k} if "top_k" in kwargs else {})

    def _represent(self, products: Any) -> Any:
        """Represent a product that was read, or a list of them."""
        return self.model.represent_batch(self.processor, products if isinstance(products, list) else [products])

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the head and its processor, so that the folder is a checkpoint that the pipeline loads again."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class EClipProductClassificationPipeline(_ProductPipeline):
    """Say what a product is: its category, its attributes, or whether it is for adults only.

    Call it with a product or a list of products, or with `text=` and `image=`, each one or a list as long as the
    other. A product has a list of `{"label": str, "score": float}`, the head's decision first; a head of attributes
    has such a list for each attribute, in a dictionary. Labels are categories as "Shoes > Boots", values of attributes
    (the configuration's `not_stated` where none is probable enough, with the probability that the best one is wrong),
    or "adult" and "not adult". `top_k` is how many labels come back, 1 if not given, all with `None`.
    """

    heads = ("EClipForAdultRecognition", "EClipForAttributeExtraction", "EClipForCategoryClassification")

    def __call__(self, inputs: Any = None, *, text: Any = None, image: Any = None, **kwargs: Any) -> Any:
        """Classify products.

        Args:
            inputs: A product, or a list, dataset or generator of them; or a mapping of two lists.
            text: A title or a list of them, in place of `inputs`.
            image: An image or a list of them, likewise.
            **kwargs: `top_k`; `batch_size` and `num_workers` as in any pipeline.

        Returns:
            The labels of the product, or a list with those of each.

        Raises:
            ValueError: nothing is given, too much is, or titles and images are not of the same number.
        """
        if (inputs is None) == (text is None and image is None):
            raise ValueError("give products, or `text`, `image` or both.")
        if inputs is None:
            inputs = {name: _listed(value) for name, value in (("text", text), ("image", image)) if value is not None}
        return super().__call__(_rows(inputs), **kwargs)

    def preprocess(self, input_: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a product."""
        return {"product": read_product(input_, self.processor.fields)}

    def _forward(self, input_tensors: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        products = input_tensors["product"]
        logits = self.model.answer(self._represent(products)).logits
        if isinstance(logits, Mapping):  # one tensor, which pipelines know how to take apart by rows
            logits = torch.cat(list(logits.values()), dim=1)
        return {"logits": logits}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 1) -> Any:
        """Put one product's logits into words."""
        return _DESCRIPTIONS[type(self.model).__name__](self.model, model_outputs["logits"], top_k)


class EClipProductMatchingPipeline(_ProductPipeline):
    """Say whether two offers are of one product.

    Call it with `{"left": product, "right": product}`, or a list of such pairs or of tuples of two products. A pair
    has a list of `{"label": str, "score": float}`, the head's decision first: "same product" and "different products".
    `top_k` is how many labels come back, 1 if not given, all with `None`.
    """

    heads = ("EClipForProductMatching",)

    def preprocess(self, input_: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a pair."""
        if isinstance(input_, Mapping):
            if set(input_) != {"left", "right"}:
                raise ValueError(f"received a pair with {list(input_)}; give {{'left': product, 'right': product}}.")
            input_ = (input_["left"], input_["right"])
        if not isinstance(input_, list | tuple) or len(input_) != 2:
            raise ValueError(f"received {type(input_).__name__}; give a pair of products.")
        left, right = (read_product(product, self.processor.fields) for product in input_)
        return {"left": left, "right": right}

    def _forward(self, input_tensors: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        left, right = self._represent(input_tensors["left"]), self._represent(input_tensors["right"])
        return {"logits": self.model.answer(left, right=right).logits}

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 1) -> _Answers:
        """Put one pair's logit into words."""
        return _yes_or_no(self.model, model_outputs["logits"], top_k, "same product", "different products")


def _rows(inputs: Any) -> Any:
    """Turn a mapping of lists into a list of products, and a dataset of rows into what gives them one by one."""
    if not isinstance(inputs, Mapping):
        # transformers knows torch's datasets, lists and generators
        return (row for row in inputs) if hasattr(inputs, "column_names") else inputs
    columns = {name: value for name, value in inputs.items() if isinstance(value, list | tuple)}
    if not columns or (len(inputs) > 1 and list(columns) == ["image"]):  # one product, which may have several images
        return inputs
    lengths = {name: len(value) for name, value in columns.items()}
    if len(columns) < len(inputs) or len(set(lengths.values())) > 1:
        raise ValueError(f"received lists of {lengths} for {list(inputs)}; give one title and one image each.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _listed(values: Any) -> Any:
    """Make a list of a column of a table; one title or image stays what it is."""
    is_column = hasattr(values, "tolist") and getattr(values, "ndim", 0) == 1
    return values.tolist() if is_column else values


def _category(model: Any, logits: torch.Tensor, top_k: int | None) -> _Answers:
    (named,) = model.decode(logits, k=len(model.tree) if top_k is None else top_k)
    return [{"label": " > ".join(path), "score": probability} for path, probability in named]


def _attributes(model: Any, logits: torch.Tensor, top_k: int | None) -> dict[str, _Answers]:
    columns = logits.split([len(values) for values in model.values.values()], dim=1)
    by_attribute = dict(zip(model.values, columns, strict=True))
    (decided,) = model.decode(by_attribute)
    answers = {}
    for name, values in model.values.items():
        probabilities = by_attribute[name].softmax(dim=1)[0].tolist()
        ranked = sorted(zip(values, probabilities, strict=True), key=lambda pair: -pair[1])
        if decided[name] != ranked[0][0]:  # no value is probable enough, or it is left to people
            ranked = [(decided[name], 1 - ranked[0][1]), *((v, p) for v, p in ranked if v != decided[name])]
        answers[name] = [{"label": value, "score": probability} for value, probability in ranked[:top_k]]
    return answers


def _adult(model: Any, logits: torch.Tensor, top_k: int | None) -> _Answers:
    return _yes_or_no(model, logits, top_k, "adult", "not adult")


def _yes_or_no(model: Any, logits: torch.Tensor, top_k: int | None, yes: str, no: str) -> _Answers:
    probability = model.probabilities(logits).item()
    answers = [{"label": yes, "score": probability}, {"label": no, "score": 1 - probability}]
    (decided,) = model.decode(logits)
    if not (probability >= model.decision_threshold if decided is None else decided):
        answers.reverse()
    first = [{"label": SENT_TO_REVIEW, "score": answers[1]["score"]}] if decided is None else []
    return [*first, *answers][:top_k]


_DESCRIPTIONS: dict[str, Callable[[Any, torch.Tensor, int | None], Any]] = {
    "EClipForAdultRecognition": _adult,
    "EClipForAttributeExtraction": _attributes,
    "EClipForCategoryClassification": _category,
}
_PIPELINES: dict[str, type[_ProductPipeline]] = {
    CLASSIFICATION: EClipProductClassificationPipeline,
    MATCHING: EClipProductMatchingPipeline,
}

__all__ = [
    "CLASSIFICATION",
    "MATCHING",
    "EClipProductClassificationPipeline",
    "EClipProductMatchingPipeline",
    "custom_pipelines_of",
    "register_pipelines",
]
