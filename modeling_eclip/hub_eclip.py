"""How e-CLIP classes are found by transformers' Auto classes, with this package installed and without it.

A checkpoint carries its code, and the `auto_map` of its configuration names the class for each Auto class. `AUTO_MAP`
is the one place where that is said for every checkpoint, and `HEAD_AUTO_MAP` for heads; [`auto_map_of`] adds the class
that is being saved, so that the checkpoint of any head answers to the head's own Auto class and, as every checkpoint
does, to `AutoModel`.
"""

import importlib

import transformers

AUTO_MAP = {
    "AutoConfig": "configuration_eclip.EClipConfig",
    "AutoModel": "modeling_eclip.EClipModel",
    "AutoModelForZeroShotImageClassification": "modeling_eclip.EClipModel",
    "AutoProcessor": "processing_eclip.EClipProcessor",
}

# One Auto class per head, since each stands for one class of a configuration; what a head takes and answers is nearest
# to what models of its Auto class do: attributes are questions about a product, a pair is a choice of two rows.
HEAD_AUTO_MAP = {
    "AutoModelForImageClassification": "adult_eclip.EClipForAdultRecognition",
    "AutoModelForMultipleChoice": "matching_eclip.EClipForProductMatching",
    "AutoModelForSequenceClassification": "category_eclip.EClipForCategoryClassification",
    "AutoModelForTextEncoding": "clustering_eclip.EClipForProductClustering",
    "AutoModelForVisualQuestionAnswering": "attributes_eclip.EClipForAttributeExtraction",
}

# What pipelines of products are called in transformers, and the heads that have one.
CLASSIFICATION, MATCHING = "eclip-product-classification", "eclip-product-matching"
HEAD_PIPELINES = {
    "EClipForAdultRecognition": CLASSIFICATION,
    "EClipForAttributeExtraction": CLASSIFICATION,
    "EClipForCategoryClassification": CLASSIFICATION,
    "EClipForProductMatching": MATCHING,
}


def auto_map_of(model_class: type) -> dict[str, str]:
    """Tell what goes into `config.auto_map` of a checkpoint of this class.

    Args:
        model_class: The class that is being saved.

    Returns:
        `{Auto class: "module.Class"}`. `AutoProcessor` is left to the processor's own file: a checkpoint saved
        without its processor must not promise one.
    """
    auto_map = {auto_class: reference for auto_class, reference in AUTO_MAP.items() if auto_class != "AutoProcessor"}
    own_auto_class = getattr(model_class, "_auto_class", None)
    if own_auto_class is not None:
        auto_map[own_auto_class] = f"{model_class.__module__.rsplit('.', 1)[-1]}.{model_class.__name__}"
    return auto_map


def register_auto_classes(package: str) -> None:
    """Register every class of both tables with its Auto class, and have its code saved with its checkpoints.

    Args:
        package: Name of the package that holds the modules of the tables.
    """
    classes = {}
    for auto_class, reference in {**AUTO_MAP, **HEAD_AUTO_MAP}.items():
        module, name = reference.split(".")
        classes[auto_class] = getattr(importlib.import_module(f"{package}.{module}"), name)
    config_class = classes["AutoConfig"]
    for auto_class, eclip_class in classes.items():
        key = config_class.model_type if auto_class == "AutoConfig" else config_class
        getattr(transformers, auto_class).register(key, eclip_class, exist_ok=True)
        # The first Auto class of a class is the one its code is saved for.
        if eclip_class._auto_class is None:
            eclip_class.register_for_auto_class(auto_class)


__all__ = [
    "AUTO_MAP",
    "CLASSIFICATION",
    "HEAD_AUTO_MAP",
    "HEAD_PIPELINES",
    "MATCHING",
    "auto_map_of",
    "register_auto_classes",
]
