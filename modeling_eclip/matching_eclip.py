"""EClipForProductMatching: two products -> the probability that they are the same one.

Each side of a pair is what a symmetric function makes of the two products' vectors, and the sides answer as those of
one product do in the other heads: each alone, then as one (e-CLIP, Shin et al. 2022, has product matching among its
downstream tasks; the head is this package's).

Notable choices:
- the features of a pair are its cosine, the absolute difference and the product of its vectors: to swap the products
  changes nothing, not the last bit;
- before training, the logit is the mean cosine of the sides, scaled: a base model matches products as it is;
- a product with a title only and one with an image only are compared in the space that titles and images share;
- products are represented once and paired afterwards, and the pairs come from nearest neighbours: a catalogue of N
  products costs N encodings and some tens of pairs per product.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_eclip import EClipConfig
from .late_fusion_eclip import IGNORED_LABEL, LateFusionClassifier, mean_cross_entropy
from .neighbors_eclip import candidate_pairs, unique_pairs
from .normalization_eclip import normalize
from .product_embeds_eclip import ProductEmbeds
from .representation_eclip import EClipYesOrNoModel, side_widths

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
        embeds: The first products of the pairs as the head saw them.
        right_embeds: The second ones.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeds: ProductEmbeds | None = None
    right_embeds: ProductEmbeds | None = None


class PairLinear(nn.Linear):
    """Linear classifier of pairs by one side; until it is trained, the cosine alone speaks.

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


class CrossModalLinear(nn.Linear):
    """What the cosine of a title with an image says about them being of one product."""

    def __init__(self) -> None:
        """Build a scale and a shift."""
        super().__init__(1, 1)


class PairClassifier(LateFusionClassifier):
    """Classify pairs by what their titles, their images or both have in common.

    Args:
        widths: Width of the features of each side of a pair, the cosine first.
    """

    def __init__(self, widths: Mapping[str, int]):
        """Build a classifier per side, and what joins them."""
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
        self.classifier = PairClassifier({side: 2 * width + 1 for side, width in side_widths(config).items()})
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PairLinear):
            module.start_from_cosine()
        elif isinstance(module, CrossModalLinear):
            init.constant_(module.weight, _START_SCALE)
            init.constant_(module.bias, -_START_SCALE * _START_CROSS_COSINE)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> MatchingOutput:
        """Represent pairs of products, and tell which are one.

        All inputs are those of products with one more dimension, of the two products of a pair, as in transformers'
        multiple-choice models. The first products are encoded apart from the second ones, so that a swap changes no
        bit of what each of them becomes.

        Args:
            input_ids: Tokens of the titles, shape `(B, 2, N)`.
            attention_mask: Which of them are real, shape `(B, 2, N)`; `None` means all.
            pixel_values: Images, shape `(B, 2, 3, H, W)`.
            labels: Whether the two are one product, as `answer` takes them, shape `(B,)`.
            has_text: Which products have a title, bool, shape `(B, 2)`; `None` means all.
            has_image: The same for images.
            text_pooler_output: Vectors of the title tower in place of `input_ids`, shape `(B, 2, text width)`.
            image_pooler_output: Vectors of the image tower in place of `pixel_values`, shape `(B, 2, vision width)`.
            position_ids: As for [`EClipModel.encode_text`], with one more dimension.
            token_type_ids: Likewise.
            pixel_attention_mask: As for [`EClipModel.encode_image`], with one more dimension.
            spatial_shapes: Likewise.
            interpolate_pos_encoding: As for [`EClipModel.encode_image`].
            **kwargs: Passed to the towers; and `return_dict`.

        Returns:
            [`MatchingOutput`], or a tuple with `return_dict=False`.

        Raises:
            ValueError: the inputs are not of pairs, or a product has none of the sides that the head looks at.
        """
        of_products = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "has_text": has_text,
            "has_image": has_image,
            "text_pooler_output": text_pooler_output,
            "image_pooler_output": image_pooler_output,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
        }
        given = {name: value for name, value in of_products.items() if value is not None}
        for name, value in given.items():
            if value.ndim < 2 or value.shape[1] != 2:
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}; give pairs, of shape (B, 2, ...).")
        left, right = (
            self.represent(
                **{name: value[:, column] for name, value in given.items()},
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
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
        pairs = self.pair_features(embeds, right)
        if labels is not None:
            labels = labels.long()
        class_logits, loss = self.classifier(pairs, labels)
        logits = class_logits[:, 1] - class_logits[:, 0]
        if self.config.modality == "both":
            cross_logits, can_cross = self._cross_modal_logits(embeds, right)
            shares_side = torch.stack([has_side.to(logits.device) for _, has_side in pairs.sides.values()]).any(dim=0)
            logits = torch.where(shares_side, logits, cross_logits)
            if labels is not None and loss is not None:
                labels = labels.to(logits.device).masked_fill(~can_cross, IGNORED_LABEL)
                both_classes = torch.stack([-cross_logits / 2, cross_logits / 2], dim=1)
                loss = loss + mean_cross_entropy(both_classes, labels)
        return MatchingOutput(loss=loss, logits=logits, embeds=embeds, right_embeds=right)

    def pair_features(self, left: ProductEmbeds, right: ProductEmbeds) -> ProductEmbeds:
        """Describe pairs of products, side by side; what the classifier reads.

        Args:
            left: The first products of the pairs.
            right: The second ones.

        Returns:
            Features of the pairs in place of vectors of products, float32, the same to the last bit for swapped pairs:
            the cosine, the absolute differences and the products of the components, shape `(B, 2 width + 1)` per
            side. A pair has a side if both products have it.
        """
        features: dict[str, torch.Tensor] = {}
        for (side, (one, has_one)), (other, has_other) in zip(left.sides.items(), right.sides.values(), strict=True):
            one, other = one.float(), other.float()
            products = one * other
            cosines = products.mean(dim=1, keepdim=True)
            features[side] = torch.cat([cosines, (one - other).abs(), products], dim=1)
            features[f"has_{side}"] = has_one & has_other
        return ProductEmbeds(**features)

    def score_pairs(self, embeds: ProductEmbeds, pairs: torch.Tensor) -> torch.Tensor:
        """Compare many pairs of products that are represented once.

        Args:
            embeds: `N` products.
            pairs: Pairs of row numbers, int64, shape `(P, 2)`, such as `candidates` gives.

        Returns:
            Log odds that the two are one product, before calibration, float32, shape `(P,)`.
        """
        width = sum(vectors.shape[1] for vectors, _ in embeds.sides.values())
        block_size = max(_BLOCK_NUMBERS // (4 * width), 1)
        logits = [torch.empty(0, device=next(iter(embeds.sides.values()))[0].device)]
        for block in pairs.split(block_size):
            output = self.answer(_select(embeds, block[:, 0]), right=_select(embeds, block[:, 1]))
            assert output.logits is not None
            logits.append(output.logits)
        return torch.cat(logits)

    def candidates(self, embeds: ProductEmbeds, num_neighbors: int | None = None) -> torch.Tensor:
        """List the pairs of products that are worth comparing: nearest neighbours by title, by image and by both.

        Of the pairs of offers of one product that real photographs and simulated sellers make, all but a few in a
        thousand are among them at 10 neighbours and `modality="both"`.

        Args:
            embeds: `N` products.
            num_neighbors: Nearest neighbours per product and side; `config.cluster_neighbors` if not given.

        Returns:
            Pairs of row numbers, the smaller first, each pair once and in ascending order, int64, shape `(P, 2)` with
            `P` at most `3 N num_neighbors`. Products that share no side are not among them.

        Raises:
            ImportError: there are more than 20,000 products on a CPU, and faiss is absent.
        """
        num_neighbors = self.config.cluster_neighbors if num_neighbors is None else num_neighbors
        sides = embeds.sides
        views = list(sides.values())
        if len(views) == 2:
            has_both = torch.stack([has_side for _, has_side in views]).all(dim=0)
            views.append((embeds.joined(), has_both))
        found, num_rows = [], len(views[0][0])
        for vectors, has_view in views:
            rows = has_view.nonzero().flatten()
            found.append(rows[candidate_pairs(normalize(vectors[rows].float()), num_neighbors)])
        return unique_pairs(torch.cat(found), num_rows)

    def _cross_modal_logits(self, left: ProductEmbeds, right: ProductEmbeds) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare the title of one product with the image of the other one, in the shared space.

        Returns:
            Log odds, float32, shape `(B,)`; and which of them speak of a title and an image, bool, shape `(B,)`.
        """
        total = has_any = None
        for titles, images in ((left, right), (right, left)):
            (text, has_text), (image, has_image) = titles.sides["text"], images.sides["image"]
            # The shared space is what it is; learned here is only what its cosines mean.
            text = normalize(self.eclip.text_projection(text.detach()).detach().float())
            image = normalize(self.eclip.visual_projection(image.detach()).detach().float()).to(text.device)
            has_both = has_text.to(text.device) & has_image.to(text.device)
            cosines = (text * image).sum(dim=1).masked_fill(~has_both, 0)
            total = cosines if total is None else total + cosines
            has_any = has_both.int() if has_any is None else has_any + has_both
        linear = self.classifier.cross_modal
        assert total is not None and has_any is not None and linear is not None
        cosines = (total / has_any.clamp(min=1)).unsqueeze(1)
        return linear(cosines.to(linear.weight.dtype)).squeeze(1).float(), has_any > 0


def _select(embeds: ProductEmbeds, rows: torch.Tensor) -> ProductEmbeds:
    """Take some products, in the order of `rows`."""
    return ProductEmbeds(**{name: value[rows] for name, value in embeds.items()})


__all__ = ["EClipForProductMatching", "MatchingOutput", "PairClassifier"]
