"""e-CLIP: product titles and product images in one space, as a transformers model.

Importing this package registers its classes with transformers' Auto classes.
"""

from .adult_eclip import AdultOutput, EClipForAdultRecognition
from .attributes_eclip import AttributeOutput, EClipForAttributeExtraction
from .category_eclip import CategoryOutput, EClipForCategoryClassification
from .category_tree_eclip import CategoryTree
from .configuration_eclip import EClipConfig
from .gather_eclip import gather_rows
from .hub_eclip import AUTO_MAP, HEAD_AUTO_MAP, register_auto_classes
from .images_eclip import ProductImageError, load_product_image
from .losses_eclip import contrastive_loss, mate_contrast_loss
from .modeling_eclip import EClipModel, EClipOutput
from .processing_eclip import EClipProcessor
from .product_embeds_eclip import ProductEmbeds
from .streams_eclip import MultiStreamAccumulation

register_auto_classes(__name__)

__all__ = [
    "AUTO_MAP",
    "HEAD_AUTO_MAP",
    "AdultOutput",
    "AttributeOutput",
    "CategoryOutput",
    "CategoryTree",
    "EClipConfig",
    "EClipForAdultRecognition",
    "EClipForAttributeExtraction",
    "EClipForCategoryClassification",
    "EClipModel",
    "EClipOutput",
    "EClipProcessor",
    "MultiStreamAccumulation",
    "ProductEmbeds",
    "ProductImageError",
    "contrastive_loss",
    "gather_rows",
    "load_product_image",
    "mate_contrast_loss",
]
