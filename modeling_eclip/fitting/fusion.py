"""How the answers of two experts are joined: fitted by cross entropy on products that they were not trained on."""

import math

import torch
from torch.nn import functional as F

from ..fusion_eclip import IGNORED_LABEL, LateFusionClassifier, ProductEmbeds

__all__ = ["fit_fusion", "fit_scales"]


def fit_fusion(
    classifier: LateFusionClassifier,
    embeds: ProductEmbeds,
    labels: torch.Tensor,
    class_counts: torch.Tensor | None = None,
) -> None:
    """Fit the fusion by cross entropy on products that the classifiers were not trained on.

    Three numbers are fitted, so that a small validation set will do: two scales, and how much of the classes'
    frequency, which both modalities have counted, is taken back. Nothing changes for one modality, or no labels.

    Args:
        classifier: The classifier, whose fusion is replaced.
        embeds: The products; those with both modalities count.
        labels: Their classes, int64, shape `(N,)`; -100 for a product that does not count.
        class_counts: How often each class was there in training, shape `(num_classes,)`; products of classes that
            were not there do not count, as in [`fit_lexical`]. `None` fits the two scales alone, over all products.
    """
    if classifier.text is None or classifier.image is None:
        return
    with torch.no_grad():
        modality_logits = classifier.modality_logits(embeds)
        labels = labels.to(modality_logits["text"].device)
        counted = labels != IGNORED_LABEL
        if class_counts is not None:
            counted = counted & torch.isin(labels, class_counts.nonzero().to(labels.device))
        for _, has_modality in embeds.modalities.values():
            counted = counted & has_modality.to(counted.device)
        text, image = (modality_logits[name].to(counted.device)[counted].double() for name in ("text", "image"))
        labels = labels[counted]
        if not len(labels):
            return
        prior = torch.zeros(text.shape[1], dtype=torch.float64, device=text.device)
        if class_counts is not None:
            # One more of each, so that a class without products is rare, not impossible.
            counts = class_counts.to(prior) + 1
            prior = (counts / counts.sum()).log()
    found = fit_scales(text, image, labels, prior)
    if found is None:
        return
    scales, strength = found
    with torch.no_grad():
        classifier.fusion_scale.copy_(scales)
        classifier.fusion_bias.copy_(-strength * prior)


def fit_scales(
    one: torch.Tensor, other: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Fit `scale * one + scale * other - strength * prior` by cross entropy.

    The scales have a log-normal prior around one half, the strength a normal one around zero, of standard deviation 1.
    So a few products change little, and make no answer sure.

    Args:
        one: Logits of an expert, float64, shape `(N, classes)`.
        other: Those of another one.
        labels: Classes, int64, shape `(N,)`.
        prior: Log probabilities of the classes, shape `(classes,)`; zero for none.

    Returns:
        The two scales, positive, shape `(2,)`, and the strength, a scalar; `None` where they are not finite.
    """
    with torch.enable_grad():
        # As logs, so that no scale becomes negative.
        log_scales = torch.full((2,), 0.5, dtype=torch.float64, device=one.device).log().requires_grad_()
        strength = torch.zeros((), dtype=torch.float64, device=one.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_scales, strength], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            scales = log_scales.exp()
            loss = F.cross_entropy(scales[0] * one + scales[1] * other - strength * prior, labels)
            # What the prior of the scales costs, by product. Without it no scale is large enough for a handful of
            # products that are told apart without a mistake.
            distance = (log_scales - math.log(0.5)).square().sum() + strength.square()
            loss = loss + distance / (2 * len(labels))
            loss.backward()
            return loss

        optimizer.step(closure)
    if not (log_scales.isfinite().all() and strength.isfinite()):
        return None
    return log_scales.detach().exp(), strength.detach()
