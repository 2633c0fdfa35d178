"""Registration with transformers: its Auto classes and its pipelines know e-CLIP once the package is imported.

`AutoModel` has a tuple of classes and picks one by `config.architectures`, so that a head's checkpoint loads as that
head. Checkpoints carry their code: without the package, `auto_map` in their configuration says the same.
"""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from ..adult_eclip import EClipForAdultRecognition
from ..attributes_eclip import EClipForAttributeExtraction
from ..category_eclip import EClipForCategoryClassification
from ..clustering_eclip import EClipForProductClustering
from ..configuration_eclip import EClipConfig
from ..matching_eclip import EClipForProductMatching
from ..modeling_eclip import EClipModel
from ..pipelines_eclip import CLASSIFICATION, register_pipelines
from ..processing_eclip import EClipProcessor

HEADS = (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
)
"""All heads."""


class _HasOwnPipeline:
    """Stands where transformers' stock classification pipelines look for a head, to name the one that works."""

    config_class = EClipConfig

    @classmethod
    def from_pretrained(cls, checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            f"{str(checkpoint)!r} is of EClipConfig, whose heads see titles and images, with thresholds; load it by "
            f"AutoModel, or use pipeline({CLASSIFICATION!r}, model={str(checkpoint)!r})."
        )


def register_auto_classes() -> None:
    """Register every class with its Auto class, and the pipelines; a second call changes nothing."""
    AutoConfig.register(EClipConfig.model_type, EClipConfig, exist_ok=True)
    AutoModel.register(EClipConfig, (EClipModel, *HEADS), exist_ok=True)
    AutoModelForZeroShotImageClassification.register(EClipConfig, EClipModel, exist_ok=True)
    for stock in (AutoModelForImageClassification, AutoModelForSequenceClassification):
        stock.register(EClipConfig, _HasOwnPipeline, exist_ok=True)
    AutoProcessor.register(EClipConfig, EClipProcessor, exist_ok=True)
    register_pipelines()


__all__ = ["HEADS", "register_auto_classes"]
