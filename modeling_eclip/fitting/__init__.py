"""What is fitted to data without training a model.

`fit_classifier` fits a head's linear classifiers to vectors of frozen towers, `fit_lexical` their weights of n-grams,
`fit_fusion` how title and image are joined, and `fit_evidence` what a matcher weighs. `calibrate` and the
`threshold_of_*` fit what a head decides by, on validation; `train_title_tokenizer` makes a tokenizer of titles.
"""

try:
    from .evidence import fit_evidence
    from .fusion import fit_fusion
    from .lexical import fit_lexical
    from .linear import count_classes, fit_classifier, fit_linear
    from .thresholds import calibrate, threshold_of_best_f1, threshold_of_precision, threshold_of_recall
    from .tokenizer import train_title_tokenizer
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "sklearn":
        raise
    raise ImportError(
        'modeling_eclip.fitting needs scikit-learn: pip install "modeling-eclip[fitting]", or ".[fitting]" in a clone'
    ) from error

__all__ = [
    "calibrate",
    "count_classes",
    "fit_classifier",
    "fit_evidence",
    "fit_fusion",
    "fit_lexical",
    "fit_linear",
    "threshold_of_best_f1",
    "threshold_of_precision",
    "threshold_of_recall",
    "train_title_tokenizer",
]
