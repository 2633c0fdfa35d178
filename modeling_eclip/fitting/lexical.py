"""The wide part of a classifier: logistic regression on the n-grams of titles, beside the one on their vectors."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..fusion_eclip import IGNORED_LABEL, LateFusionClassifier, LexicalLinear, ProductEmbeds, select_products
from ..processing_eclip import LEXICAL_PADDING
from .fusion import fit_scales
from .linear import choose_regression, score_answers, write_regression

__all__ = ["fit_lexical", "inverse_document_frequencies", "trim_lexical"]

_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_BLOCK_ROWS = 4096


def fit_lexical(
    classifier: LateFusionClassifier,
    train: ProductEmbeds,
    train_labels: torch.Tensor,
    validation: ProductEmbeds,
    validation_labels: torch.Tensor,
    *,
    class_weights: tuple[float, ...] | None = None,
) -> None:
    """Fit the n-grams of titles, and how much they and the titles' vectors count.

    The classifier of the vectors is fitted already, and only scaled: the scales of both are fitted on validation, over
    products of classes that training has seen. The others, most of them where labels are few, would only make all
    answers less sure, and sums over several classes wrong.

    Args:
        classifier: The classifier; nothing happens where it reads no n-grams.
        train: Products to learn from.
        train_labels: Their classes, shape `(N,)`, -100 for none.
        validation: Products to choose by.
        validation_labels: Their classes, likewise.
        class_weights: Weight of each class in the loss; 1 for all if not given.
    """
    wide, deep = classifier.lexical, classifier.text
    if wide is None or deep is None or train.lexical is None or validation.lexical is None:
        return
    wide.weight.zero_()
    rows, held_out = (
        embeds.modalities["text"][1] & (labels != IGNORED_LABEL)
        for embeds, labels in ((train, train_labels), (validation, validation_labels))
    )
    labels, held_out_labels = train_labels[rows].numpy(), validation_labels[held_out]
    if len(np.unique(labels)) < 2:
        return
    counts = _count(wide, train.lexical[rows])
    wide.idf.copy_(torch.from_numpy(inverse_document_frequencies(np.diff(counts.tocsc().indptr), counts.shape[0])))
    wide.idf[-1] = 0  # n-grams of other kinds, and padding
    titles, held_out_titles = _weigh(wide, counts), _weigh(wide, _count(wide, validation.lexical[held_out]))
    weights = None if class_weights is None else {int(one): class_weights[int(one)] for one in np.unique(labels)}
    regression = LogisticRegression(class_weight=weights, max_iter=300, tol=1e-3, warm_start=True)
    _, coefficients, intercepts = choose_regression(
        regression, _STRENGTHS, titles, labels, held_out_titles, held_out_labels.numpy()
    )
    classes = np.unique(labels)
    answer = nn.Linear(titles.shape[1], wide.weight.shape[1])
    write_regression(answer, classes, coefficients, intercepts)
    with torch.no_grad():
        deep_logits = classifier.modality_logits(select_products(validation, held_out))["text"]
        wide_logits = torch.from_numpy(held_out_titles @ answer.weight.numpy().T + answer.bias.numpy())
        known = torch.isin(held_out_labels, torch.from_numpy(classes))
        best = (1.0, 0.0)  # the vectors alone, where nothing tells what is better
        if known.any():
            best = _choose_scales(deep_logits[known].double(), wide_logits[known].double(), held_out_labels[known])
        deep.weight.mul_(best[0])
        deep.bias.mul_(best[0]).add_(best[1] * answer.bias)
        wide.weight.copy_(best[1] * answer.weight.T)


def _choose_scales(deep: torch.Tensor, wide: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Fit the scales of two experts by cross entropy, or leave the answer to one of them.

    One of them alone must be better by more than the standard error of an accuracy: to take what is best by less would
    follow chance.
    """
    fitted = fit_scales(deep, wide, labels, torch.zeros(deep.shape[1], dtype=torch.float64))
    ways = [(1.0, 0.0), (0.0, 1.0)] if fitted is None else [tuple(fitted[0].tolist()), (1.0, 0.0), (0.0, 1.0)]
    scores = [score_answers(labels.numpy(), one * deep + other * wide)[0] for one, other in ways]
    best = int(np.argmax(scores))
    error = (scores[0] * (1 - scores[0]) / len(labels)) ** 0.5
    return ways[best] if scores[best] > scores[0] + error else ways[0]


def trim_lexical(lexical: torch.Tensor) -> torch.Tensor:
    """Cut hashed n-grams to those of the longest title: a tenth of the width, as a rule."""
    return lexical[:, : max(int((lexical < LEXICAL_PADDING).any(dim=0).sum()), 1)]


def inverse_document_frequencies(frequencies: np.ndarray, num_documents: int) -> np.ndarray:
    """Weigh n-grams by how rare they are, as scikit-learn's smoothed IDF does."""
    return (np.log((1 + num_documents) / (1 + frequencies)) + 1).astype(np.float32)


def _count(wide: LexicalLinear, lexical: torch.Tensor) -> csr_matrix:
    """Return how often titles have n-grams of each row, shape `(N, rows)`."""
    rows = torch.cat([wide.rows(block).int() for block in trim_lexical(lexical).split(_BLOCK_ROWS)])
    kept = rows != wide.num_kinds * wide.num_rows
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(dim=1).cumsum(0)])
    shape = (len(rows), len(wide.idf))
    counts = csr_matrix((np.ones(int(indptr[-1]), np.float32), rows[kept].numpy(), indptr.numpy()), shape=shape)
    counts.sum_duplicates()
    return counts


def _weigh(wide: LexicalLinear, counts: csr_matrix) -> csr_matrix:
    """Weigh counts as the layer does: an n-gram that meets another one in its row counts for both."""
    # The layer's length is over n-grams, not over rows.
    idf = wide.idf.numpy()
    lengths = np.sqrt(np.maximum(counts @ (idf**2), 1e-24))
    weighed = counts.multiply(idf[None, :]).tocsr()
    return weighed.multiply(1 / lengths[:, None]).tocsr()
