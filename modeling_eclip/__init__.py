"""e-CLIP: product titles and product images in one space, as a transformers model.

Importing this package registers its classes with transformers' Auto classes and its pipelines with transformers, and
takes no time: each name brings its module, and torch, when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_when_imported

# ruff: noqa: F403
if TYPE_CHECKING:
    from .adult_eclip import *
    from .attributes_eclip import *
    from .binary_eclip import *
    from .category_eclip import *
    from .category_tree_eclip import *
    from .clustering_eclip import *
    from .configuration_eclip import *
    from .gather_eclip import *
    from .hub_eclip import *
    from .images_eclip import *
    from .linkage_eclip import *
    from .losses_eclip import *
    from .matching_eclip import *
    from .matryoshka_eclip import *
    from .model_card_eclip import *
    from .modeling_eclip import *
    from .neighbors_eclip import *
    from .objective_eclip import *
    from .pipelines_eclip import *
    from .processing_eclip import *
    from .product_embeds_eclip import *
    from .publishing_eclip import *
    from .streams_eclip import *

_NAMES_OF = {
    "adult_eclip": ["AdultOutput", "EClipForAdultRecognition"],
    "attributes_eclip": ["AttributeOutput", "EClipForAttributeExtraction"],
    "binary_eclip": ["BinaryIndex", "binarize"],
    "category_eclip": ["CategoryOutput", "EClipForCategoryClassification"],
    "category_tree_eclip": ["CategoryTree"],
    "clustering_eclip": ["ClusteringOutput", "EClipForProductClustering"],
    "configuration_eclip": ["EClipConfig"],
    "gather_eclip": ["gather_rows"],
    "hub_eclip": ["AUTO_MAP", "HEAD_AUTO_MAP"],
    "images_eclip": ["ProductImageError", "load_product_image"],
    "linkage_eclip": ["average_linkage"],
    "losses_eclip": ["contrastive_loss", "mate_contrast_loss"],
    "matching_eclip": ["EClipForProductMatching", "MatchingOutput"],
    "matryoshka_eclip": ["matryoshka_loss", "truncate_embeds"],
    "model_card_eclip": ["CardFacts", "Figure"],
    "modeling_eclip": ["EClipModel", "EClipOutput"],
    "neighbors_eclip": ["candidate_pairs", "nearest_neighbors"],
    "objective_eclip": ["configured_loss"],
    "pipelines_eclip": ["EClipProductClassificationPipeline", "EClipProductMatchingPipeline"],
    "processing_eclip": ["EClipProcessor"],
    "product_embeds_eclip": ["ProductEmbeds"],
    "publishing_eclip": ["publish_folder", "push_to_hub"],
    "streams_eclip": ["MultiStreamAccumulation"],
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


register_when_imported()
