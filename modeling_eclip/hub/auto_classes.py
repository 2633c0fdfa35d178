"""Registration with transformers: its Auto classes and its pipelines know e-CLIP once the package is imported.

`AutoModel` has a tuple of classes and picks one by `config.architectures`, so that a head's checkpoint loads as that
head. Checkpoints carry their code: without the package, `auto_map` in their configuration says the same.
"""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from ..adult_eclip import EClipForAdultRecognition
from ..attributes_eclip import EClipForAttributeExtraction
from ..category_eclip import EClipForCategoryClassification
from ..clustering_eclip import EClipForProductClustering
from ..configuration_eclip import EClipConfig
from ..matching_eclip import EClipForProductMatching
from ..modeling_eclip import EClipModel
from ..pipelines_eclip import register_pipelines
from ..processing_eclip import EClipProcessor

HEADS = (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
)
"""All heads."""


def register_auto_classes() -> None:
    """Register every class with its Auto class, and the pipelines; a second call changes nothing."""
    AutoConfig.register(EClipConfig.model_type, EClipConfig, exist_ok=True)
    AutoModel.register(EClipConfig, (EClipModel, *HEADS), exist_ok=True)
    AutoModelForZeroShotImageClassification.register(EClipConfig, EClipModel, exist_ok=True)
    AutoProcessor.register(EClipConfig, EClipProcessor, exist_ok=True)
    register_pipelines()


__all__ = ["HEADS", "register_auto_classes"]
