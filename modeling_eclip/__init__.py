"""e-CLIP: product titles and product images in one space, as a transformers model.

Importing this package registers its classes with transformers' Auto classes and its pipelines with transformers.
"""

from .adult_eclip import AdultOutput, EClipForAdultRecognition
from .attributes_eclip import AttributeOutput, EClipForAttributeExtraction
from .binary_eclip import BinaryIndex, binarize
from .category_eclip import CategoryOutput, EClipForCategoryClassification
from .category_tree_eclip import CategoryTree
from .clustering_eclip import ClusteringOutput, EClipForProductClustering
from .configuration_eclip import EClipConfig
from .gather_eclip import gather_rows
from .hub_eclip import AUTO_MAP, HEAD_AUTO_MAP, register_auto_classes
from .images_eclip import ProductImageError, load_product_image
from .linkage_eclip import average_linkage
from .losses_eclip import contrastive_loss, mate_contrast_loss
from .matching_eclip import EClipForProductMatching, MatchingOutput
from .matryoshka_eclip import matryoshka_loss, truncate_embeds
from .model_card_eclip import CardFacts, Figure
from .modeling_eclip import EClipModel, EClipOutput
from .neighbors_eclip import candidate_pairs, nearest_neighbors
from .objective_eclip import configured_loss
from .pipelines_eclip import EClipProductClassificationPipeline, EClipProductMatchingPipeline, register_pipelines
from .processing_eclip import EClipProcessor
from .product_embeds_eclip import ProductEmbeds
from .publishing_eclip import publish_folder, push_to_hub
from .streams_eclip import MultiStreamAccumulation

register_auto_classes(__name__)
register_pipelines()

__all__ = [
    "AUTO_MAP",
    "HEAD_AUTO_MAP",
    "AdultOutput",
    "AttributeOutput",
    "BinaryIndex",
    "CardFacts",
    "CategoryOutput",
    "CategoryTree",
    "ClusteringOutput",
    "EClipConfig",
    "EClipForAdultRecognition",
    "EClipForAttributeExtraction",
    "EClipForCategoryClassification",
    "EClipForProductClustering",
    "EClipForProductMatching",
    "EClipModel",
    "EClipOutput",
    "EClipProcessor",
    "EClipProductClassificationPipeline",
    "EClipProductMatchingPipeline",
    "Figure",
    "MatchingOutput",
    "MultiStreamAccumulation",
    "ProductEmbeds",
    "ProductImageError",
    "average_linkage",
    "binarize",
    "candidate_pairs",
    "configured_loss",
    "contrastive_loss",
    "gather_rows",
    "load_product_image",
    "mate_contrast_loss",
    "matryoshka_loss",
    "nearest_neighbors",
    "publish_folder",
    "push_to_hub",
    "truncate_embeds",
]
