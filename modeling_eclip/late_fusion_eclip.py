"""LateFusionClassifier: one classifier per side of a product, and one answer from both.

Joined before the classifier, the stronger side hides what the weaker one knows, and answers get worse where it is
missing. Here each side learns to answer alone, and what is joined are the answers: a product of experts,

    logits = scale_text * log p(class | title) + scale_image * log p(class | image) + bias,

with two scales and a bias that make up for what title and image both know. A product with one side only gets that
side's own answer. The joining is this package's; e-CLIP (Shin et al. 2022) uses text, image, and both.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from .product_embeds_eclip import ProductEmbeds

IGNORED_LABEL = -100
_HELD = 1e-4  # how much the fitted joining is held where it starts


class LateFusionClassifier(nn.Module):
    """Classify products from their titles, their images or both.

    Args:
        widths: Width of the vectors of each side that it looks at: of `"text"`, `"image"` or both.
        num_classes: Number of classes.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int):
        """Build a linear classifier per side, and what joins them."""
        super().__init__()
        self.text = nn.Linear(widths["text"], num_classes) if "text" in widths else None
        self.image = nn.Linear(widths["image"], num_classes) if "image" in widths else None
        if self.text is not None and self.image is not None:
            self.fusion_scale = nn.Parameter(torch.full((2,), 0.5))  # of the title, of the image
            self.fusion_bias = nn.Parameter(torch.zeros(num_classes))

    def side_logits(self, embeds: ProductEmbeds) -> dict[str, torch.Tensor]:
        """Answer from each side alone.

        Args:
            embeds: The products.

        Returns:
            Log probabilities, float32, shape `(B, num_classes)`, of `"text"` and `"image"` as far as there are. Of a
            side that a product has not: what the stand-in says, uniform unless it learnt otherwise.
        """
        log_probabilities = {}
        for side, (vectors, has_side) in embeds.sides.items():
            linear = getattr(self, side)
            logits = linear(vectors.to(linear.weight.dtype)).float()
            # The bias is how often a class is seen by this side; where there is nothing to see, it is no evidence.
            logits = logits - (~has_side).unsqueeze(1) * linear.bias.float()
            log_probabilities[side] = logits.log_softmax(dim=-1)  # (B, num_classes)
        return log_probabilities

    def fuse(self, side_logits: Mapping[str, torch.Tensor], embeds: ProductEmbeds) -> torch.Tensor:
        """Join the answers of the sides.

        Args:
            side_logits: What `side_logits` returned for `embeds`.
            embeds: The products.

        Returns:
            Logits, float32, shape `(B, num_classes)`.
        """
        if self.text is None or self.image is None:
            (logits,) = side_logits.values()
            return logits
        text, image = side_logits["text"], side_logits["image"].to(side_logits["text"].device)
        has_text, has_image = (has.to(text.device).unsqueeze(1) for _, has in embeds.sides.values())
        scale_text, scale_image = self.fusion_scale.float()
        # A side that is alone speaks for itself; the stand-in beside it may correct it.
        scale_text = torch.where(has_text & ~has_image, 1.0, scale_text)
        scale_image = torch.where(has_image & ~has_text, 1.0, scale_image)
        return scale_text * text + scale_image * image + (has_text & has_image) * self.fusion_bias.float()

    def forward(
        self,
        embeds: ProductEmbeds,
        labels: torch.Tensor | None = None,
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Classify products.

        Args:
            embeds: The products.
            labels: Their classes, int64, shape `(B,)`; -100 for a product that carries no loss.
            class_weights: Weight of each class in the loss, shape `(num_classes,)`; `None` means 1 for all.
            label_smoothing: Share of a label's mass that is spread over all classes.

        Returns:
            Logits, float32, shape `(B, num_classes)`, and the loss, a scalar, or `None` without labels: the cross
            entropy of the joined answer plus the mean of the sides' own, each over the products that have the side.
        """
        side_logits = self.side_logits(embeds)
        logits = self.fuse(side_logits, embeds)
        if labels is None:
            return logits, None
        labels = labels.to(logits.device)
        loss = mean_cross_entropy(logits, labels, class_weights, label_smoothing)
        if len(side_logits) == 1:
            return logits, loss
        own_losses = [
            mean_cross_entropy(
                side_logits[side].to(logits.device),
                labels.masked_fill(~has_side.to(logits.device), IGNORED_LABEL),
                class_weights,
                label_smoothing,
            )
            for side, (_, has_side) in embeds.sides.items()
        ]
        return logits, loss + torch.stack(own_losses).mean()

    def fit_fusion(
        self, embeds: ProductEmbeds, labels: torch.Tensor, class_counts: torch.Tensor | None = None
    ) -> None:
        """Fit how the sides are joined, by cross entropy on products that the classifiers have not learnt from.

        Two scales, and how far the frequency of a class is taken back that both sides have counted in: three numbers,
        so that a small validation set will do. Nothing happens to a classifier of one side, or without labels.

        Args:
            embeds: The products; those with both sides count.
            labels: Their classes, int64, shape `(N,)`; -100 for a product that does not count.
            class_counts: How often each class was there in training, shape `(num_classes,)`; `None` fits the two
                scales alone.
        """
        if self.text is None or self.image is None:
            return
        with torch.no_grad():
            side_logits = self.side_logits(embeds)
            counted = labels.to(side_logits["text"].device) != IGNORED_LABEL
            for _, has_side in embeds.sides.values():
                counted = counted & has_side.to(counted.device)
            text, image = (side_logits[side].to(counted.device)[counted].double() for side in ("text", "image"))
            labels = labels.to(counted.device)[counted]
            if not len(labels):
                return
            prior = torch.zeros(text.shape[1], dtype=torch.float64, device=text.device)
            if class_counts is not None:
                # One more of each, so that a class without products is rare, not impossible.
                counts = class_counts.to(prior) + 1
                prior = (counts / counts.sum()).log()
        with torch.enable_grad():
            # As logs, so that no side is turned against itself.
            log_scales = torch.full((2,), 0.5, dtype=torch.float64, device=text.device).log().requires_grad_()
            strength = torch.zeros((), dtype=torch.float64, device=text.device, requires_grad=True)
            optimizer = torch.optim.LBFGS([log_scales, strength], max_iter=100, line_search_fn="strong_wolfe")

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                scales = log_scales.exp()
                loss = F.cross_entropy(scales[0] * text + scales[1] * image - strength * prior, labels)
                # A handful of products may be told apart without a mistake, and then no scale is large enough.
                loss = loss + _HELD * ((log_scales - math.log(0.5)).square().sum() + strength.square())
                loss.backward()
                return loss

            optimizer.step(closure)
        if not (log_scales.isfinite().all() and strength.isfinite()):
            return
        with torch.no_grad():
            self.fusion_scale.copy_(log_scales.exp())
            self.fusion_bias.copy_(-strength * prior)

    @torch.no_grad()
    def rely_on(self, side: str) -> None:
        """Take the answer of one side, `"text"` or `"image"`, wherever a product has both."""
        self.fusion_scale.copy_(torch.tensor([float(side == "text"), float(side == "image")]))
        self.fusion_bias.zero_()


def mean_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean of the cross entropy over the labelled rows; zero, not not-a-number, where there are none.

    Args:
        logits: Shape `(B, num_classes)`.
        labels: Int64, shape `(B,)`; -100 for a row without one.
        class_weights: Weight of each class, shape `(num_classes,)`; `None` means 1 for all.
        label_smoothing: Share of a label's mass that is spread over all classes.

    Returns:
        The mean weighted by class, a scalar with a gradient, zero or not.
    """
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    total = F.cross_entropy(
        logits,
        labels,
        weight=class_weights,
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    counted = labels != IGNORED_LABEL
    mass = counted if class_weights is None else counted * class_weights[labels.masked_fill(~counted, 0)]
    # All weights are positive, so a sum of zero has no rows in it; `total` is zero then, too.
    mass = mass.sum().to(logits.dtype)
    return total / torch.where(mass > 0, mass, 1)


__all__ = ["IGNORED_LABEL", "LateFusionClassifier", "mean_cross_entropy"]
