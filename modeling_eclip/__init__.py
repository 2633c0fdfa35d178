"""e-CLIP: product titles and product images in one space, as a transformers model.

Importing this package registers its classes with transformers' Auto classes, and its pipelines.
"""

from .accumulation.streams import MultiStreamAccumulation
from .adult_eclip import AdultOutput, EClipForAdultRecognition
from .attributes_eclip import AttributeOutput, EClipForAttributeExtraction
from .category_eclip import CategoryOutput, CategoryTree, EClipForCategoryClassification
from .clustering_eclip import ClusteringOutput, EClipForProductClustering
from .configuration_eclip import EClipConfig
from .fusion_eclip import ProductEmbeds
from .hub.auto_classes import register_auto_classes
from .hub.model_card import CardFacts, MetricValue
from .hub.publishing import publish_folder, push_to_hub
from .images_eclip import ProductImageError, load_product_image
from .inference.embed import embed_products
from .losses.contrastive import contrastive_loss, mate_contrast_loss
from .losses.gather import gather_rows
from .losses.matryoshka import matryoshka_loss
from .losses.objective import ContrastiveObjective
from .matching_eclip import EClipForProductMatching, MatchingOutput
from .modeling_eclip import EClipModel, EClipOutput, dense_contrastive_loss, truncate_embeds
from .pipelines_eclip import EClipProductClassificationPipeline, EClipProductMatchingPipeline
from .processing_eclip import EClipProcessor
from .retrieval.binary import BinaryIndex, binarize
from .retrieval.clusters import cluster_embeds
from .retrieval.linkage import average_linkage
from .retrieval.neighbors import candidate_pairs, nearest_neighbors

register_auto_classes()

__all__ = [
    "AdultOutput",
    "AttributeOutput",
    "BinaryIndex",
    "CardFacts",
    "CategoryOutput",
    "CategoryTree",
    "ClusteringOutput",
    "ContrastiveObjective",
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
    "MatchingOutput",
    "MetricValue",
    "MultiStreamAccumulation",
    "ProductEmbeds",
    "ProductImageError",
    "average_linkage",
    "binarize",
    "candidate_pairs",
    "cluster_embeds",
    "contrastive_loss",
    "dense_contrastive_loss",
    "embed_products",
    "gather_rows",
    "load_product_image",
    "mate_contrast_loss",
    "matryoshka_loss",
    "nearest_neighbors",
    "publish_folder",
    "push_to_hub",
    "truncate_embeds",
]
