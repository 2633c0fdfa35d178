"""EClipForProductMatching: two products -> the probability that they are the same one.

A symmetric function of the two products' vectors gives the features of a pair, by modality; each modality classifies
alone, and the answers are joined as in the other heads (e-CLIP, Shin et al. 2022, has product matching among its
downstream tasks; the head is this package's).

Notable choices:
- the features of a pair are its cosine, the absolute difference and the product of its vectors: to swap the products
  changes no bit of them, and no more of the answer than the rounding of a pair at another place of a batch;
- before training, the logit is the mean cosine of the modalities, scaled: a base model matches products as it is;
- vectors forget codes and numbers: trees weigh beside them what two titles have in common (`PairEvidence`);
- a product with a title only and one with an image only are compared in the space that titles and images share;
- products are represented once and paired afterwards: N products cost N encodings and some tens of pairs per product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .fusion_eclip import (
    IGNORED_LABEL,
    LateFusionClassifier,
    PairEvidence,
    ProductEmbeds,
    mean_cross_entropy,
    select_products,
)  # fmt: skip
from .modeling_eclip import normalize
from .representation_eclip import EClipYesOrNoModel, import_from_package, modality_widths

# Where matching starts: two products are as likely one as two at a cosine of .7, of a title with an image at .3.
_START_SCALE = 10.0
_START_COSINE, _START_CROSS_COSINE = 0.7, 0.3
# Numbers in the features of the pairs that are scored at a time.
_BLOCK_NUMBERS = 2**24


@dataclass
class MatchingOutput(ModelOutput):
    """What [`EClipForProductMatching`] returns.

    Args:
        loss: The loss, a scalar; with `labels`.
        logits: Log odds that the two products are one, before calibration, float32, shape `(B,)`.
        products: The first products of the pairs as the head saw them.
        right_products: The second ones.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    products: ProductEmbeds | None = None
    right_products: ProductEmbeds | None = None


class PairLinear(nn.Linear):
    """Linear classifier of pairs by one modality; until it is trained, the cosine alone counts.

    Args:
        num_features: Features of a pair, the cosine first.
    """

    def __init__(self, num_features: int):
        """Build a classifier of two classes: 0 is two products, 1 is one."""
        super().__init__(num_features, 2)

    @torch.no_grad()
    def start_from_cosine(self) -> None:
        """Set the weights; what is loaded from a checkpoint already stays."""
        weight = torch.zeros(self.weight.shape)
        weight[:, 0] = torch.tensor([-_START_SCALE / 2, _START_SCALE / 2])
        init.copy_(self.weight, weight)
        init.copy_(self.bias, -_START_COSINE * weight[:, 0])


class CrossModalLinear(nn.Module):
    """Turns the cosine of a title with an image into log odds that they are of one product.

    Not an `nn.Linear`: there is nothing to quantise in two numbers, and torchao fails at it.
    """

    def __init__(self) -> None:
        """Build a scale and a shift."""
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), _START_SCALE))
        self.bias = nn.Parameter(torch.full((1,), -_START_SCALE * _START_CROSS_COSINE))

    def forward(self, cosines: torch.Tensor) -> torch.Tensor:
        """Scale and shift cosines, shape `(B, 1)` to the same."""
        return nn.functional.linear(cosines, self.weight, self.bias)


class PairClassifier(LateFusionClassifier):
    """Classify pairs by what their titles, their images or both have in common.

    Args:
        widths: Width of the features of each modality of a pair, the cosine first.
    """

    def __init__(self, widths: Mapping[str, int]):
        """Build a classifier per modality, and their fusion."""
        super().__init__(widths, 2)
        self.text = PairLinear(widths["text"]) if "text" in widths else None
        self.image = PairLinear(widths["image"]) if "image" in widths else None
        self.cross_modal = CrossModalLinear() if len(widths) == 2 else None


class EClipForProductMatching(EClipYesOrNoModel):
    """Tell whether two offers are of one product.

    Args:
        config: The configuration; its `calibration` and `decision_threshold` count in the answers.
    """

    def __init__(self, config: EClipConfig):
        """Build the classifier of pairs."""
        super().__init__(config)
        self.classifier = PairClassifier(
            {modality: 2 * width + 1 for modality, width in modality_widths(config).items()}
        )
        self.evidence = PairEvidence() if config.lexical_rows else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PairLinear):
            module.start_from_cosine()
        elif isinstance(module, CrossModalLinear):
            init.constant_(module.weight, _START_SCALE)
            init.constant_(module.bias, -_START_SCALE * _START_CROSS_COSINE)
        elif isinstance(module, PairEvidence):
            module.forget()

    def answer_inputs(
        self, inputs: dict[str, torch.Tensor], labels: torch.Tensor | None, **kwargs: Any
    ) -> MatchingOutput:
        """Represent pairs of products, and tell which are one.

        The first products are encoded apart from the second ones, so that a swap changes no bit of their vectors: the
        same operations, on tensors of the same values and strides.

        Args:
            inputs: What `forward` was given: tensors of shape `(B, 2, ...)`, of the two products of each pair, as in
                transformers' multiple-choice models.
            labels: Whether the two are one product, as `answer` takes them, shape `(B,)`.
            **kwargs: Passed to the towers.

        Returns:
            [`MatchingOutput`].

        Raises:
            ValueError: the inputs are not of pairs, or a product has no modality that the head uses.
        """
        for name, value in inputs.items():
            if value.ndim < 2 or value.shape[1] != 2:
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}; give pairs, of shape (B, 2, ...).")
        left, right = (
            self.represent(**{name: value[:, column].contiguous() for name, value in inputs.items()}, **kwargs)
            for column in (0, 1)
        )
        return self.answer(left, labels, right)

    def answer(
        self, embeds: ProductEmbeds, labels: torch.Tensor | None = None, right: ProductEmbeds | None = None
    ) -> MatchingOutput:
        """Compare products that are represented already.

        Args:
            embeds: The first products of the pairs.
            labels: Whether the two are one product, bool or a number, 0 or 1, shape `(B,)`; -100 for a pair that
                carries no loss.
            right: The second products of the pairs.

        Returns:
            [`MatchingOutput`].

        Raises:
            ValueError: the second products are missing.
        """
        if right is None:
            raise ValueError("`right` is None; give the second products of the pairs, too.")
        vectors, loss = self._vector_answer(embeds, right, None if labels is None else labels.long())
        logits = vectors[:, 3]
        if self.evidence is not None:
            features = self.evidence.features(vectors.detach(), embeds, right)
            # Where titles have no words, as an emoji has none, there is nothing literal to weigh.
            is_weighed = self.evidence.is_fitted & ~features[:, vectors.shape[1] :].isnan().all(dim=1)
            logits = torch.where(is_weighed, self.evidence(features), logits)
        return MatchingOutput(loss=loss, logits=logits, products=embeds, right_products=right)

    @torch.no_grad()
    def pair_evidence(self, left: ProductEmbeds, right: ProductEmbeds) -> torch.Tensor:
        """Return what [`PairEvidence`] weighs.

        Args:
            left: The first products of the pairs.
            right: The second ones.

        Returns:
            Features in the order of `EVIDENCE`, not a number where a product lacks it, float32, shape `(B, 84)`.
        """
        assert self.evidence is not None  # of a head with `lexical_rows`
        return self.evidence.features(self._vector_answer(left, right, None)[0], left, right)

    def _vector_answer(
        self, left: ProductEmbeds, right: ProductEmbeds, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Answer by the vectors alone.

        Returns:
            Cosine of the titles, of the images, and of titles with images, each not a number where there is none, and
            the logit, shape `(B, 4)`; and the loss, `None` without labels.
        """
        pairs = self.pair_features(left, right)
        class_logits, loss = self.classifier(pairs, labels)
        logits = class_logits[:, 1] - class_logits[:, 0]
        cosines = dict.fromkeys(("text", "image", "cross"), torch.full_like(logits, torch.nan))
        for modality, (features, has_modality) in pairs.modalities.items():
            cosines[modality] = features[:, 0].masked_fill(~has_modality, torch.nan).to(logits.device)
        if self.config.modality == "both":
            cross_cosines, can_cross = self._cross_modal_cosines(left, right)
            cosines["cross"] = cross_cosines.masked_fill(~can_cross, torch.nan)
            linear = self.classifier.cross_modal
            assert linear is not None
            cross_logits = linear(cross_cosines.unsqueeze(1).to(linear.weight.dtype)).squeeze(1).float()
            shares_none = cosines["text"].isnan() & cosines["image"].isnan()
            logits = torch.where(shares_none, cross_logits, logits)
            if labels is not None and loss is not None:
                labels = labels.to(logits.device).masked_fill(~can_cross, IGNORED_LABEL)
                both_classes = torch.stack([-cross_logits / 2, cross_logits / 2], dim=1)
                loss = loss + mean_cross_entropy(both_classes, labels)
        return torch.stack([*cosines.values(), logits], dim=1), loss

    def pair_features(self, left: ProductEmbeds, right: ProductEmbeds) -> ProductEmbeds:
        """Describe pairs of products by modality: what the classifier reads.

        Args:
            left: The first products of the pairs.
            right: The second ones.

        Returns:
            Features of the pairs in place of vectors of products, float32, the same to the last bit for swapped pairs:
            the cosine, the absolute differences and the products of the components, shape `(B, 2 width + 1)` per
            modality. A pair has a modality if both products have it.
        """
        features: dict[str, torch.Tensor] = {}
        others = right.modalities
        for modality, (one, has_one) in left.modalities.items():
            other, has_other = others[modality]
            one, other = one.float(), other.float()
            products = one * other
            cosines = products.mean(dim=1, keepdim=True)
            features[modality] = torch.cat([cosines, (one - other).abs(), products], dim=1)
            features[f"has_{modality}"] = has_one & has_other
        return ProductEmbeds(**features)

    @torch.no_grad()
    def score_pairs(self, embeds: ProductEmbeds, pairs: torch.Tensor) -> torch.Tensor:
        """Compare many pairs of products that are represented once.

        Args:
            embeds: `N` products.
            pairs: Pairs of row numbers, int64, shape `(P, 2)`, such as `candidates` gives.

        Returns:
            Log odds that the two are one product, before calibration, float32, shape `(P,)`.
        """
        width = sum(vectors.shape[1] for vectors, _ in embeds.modalities.values())
        width += 0 if embeds.lexical is None else 4 * embeds.lexical.shape[1]
        block_size = max(_BLOCK_NUMBERS // (4 * width), 1)
        logits = [torch.empty(0, device=next(iter(embeds.modalities.values()))[0].device)]
        for left, right in (block.unbind(dim=1) for block in pairs.split(block_size)):
            output = self.answer(select_products(embeds, left), right=select_products(embeds, right))
            assert output.logits is not None
            logits.append(output.logits)
        return torch.cat(logits)

    def candidates(self, embeds: ProductEmbeds, num_neighbors: int | None = None) -> torch.Tensor:
        """List the pairs worth comparing: near by title, by image or by both, or of titles that share something rare.

        Args:
            embeds: `N` products.
            num_neighbors: Pairs per product by modality and by rare n-grams; `config.cluster_neighbors` if not given.

        Returns:
            Pairs of row numbers, the smaller first, each pair once and in ascending order, int64, shape `(P, 2)` with
            `P` at most `4 N num_neighbors`. Products without a common modality are not among them.

        Raises:
            ImportError: the package is not installed; or, beyond 20,000 products on a CPU, faiss is not.
        """
        package = import_from_package("retrieval.product_pairs", "`candidates`")
        return package.product_pairs(embeds, self.config.cluster_neighbors if num_neighbors is None else num_neighbors)

    def _cross_modal_cosines(self, left: ProductEmbeds, right: ProductEmbeds) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare the title of one product with the image of the other one, in the shared space.

        Returns:
            Mean cosines, float32, and which pairs have a title and an image to compare, bool; shape `(B,)` each.
        """
        total = has_any = None
        for titles, images in ((left, right), (right, left)):
            (text, has_text), (image, has_image) = titles.modalities["text"], images.modalities["image"]
            # The shared space is what it is; learned here is only what its cosines mean.
            text = normalize(self.eclip.text_projection(text.detach()).detach().float())
            image = normalize(self.eclip.visual_projection(image.detach()).detach().float()).to(text.device)
            has_both = has_text.to(text.device) & has_image.to(text.device)
            cosines = (text * image).sum(dim=1).masked_fill(~has_both, 0)
            total = cosines if total is None else total + cosines
            has_any = has_both.int() if has_any is None else has_any + has_both
        assert total is not None and has_any is not None
        return total / has_any.clamp(min=1), has_any > 0


__all__ = ["EClipForProductMatching", "MatchingOutput", "PairClassifier"]
