"""ProductEmbeds, a product's vectors by modality; LateFusionClassifier and PairEvidence, how what is known is joined.

Where vectors are joined before one classifier, the stronger modality hides what the weaker one knows, and answers get
worse where it is missing. Here each modality learns to answer alone, and the answers are joined: a product of experts,

    logits = scale_text * log p(class | title) + scale_image * log p(class | image) + bias,

with two scales and a bias that make up for what title and image both know. A product with one modality gets that
modality's own answer. The fusion is this package's; e-CLIP (Shin et al. 2022) uses text, image, and both.

Titles often name the answer in words that a vector does not keep. So the answer of titles is wide and deep (Cheng et
al. 2016): `LexicalLinear` weighs their n-grams. Of pairs, `PairEvidence` weighs what both titles have in common.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .modeling_eclip import normalize
from .processing_eclip import LEXICAL_BITS, LEXICAL_KINDS, LEXICAL_PADDING

IGNORED_LABEL = -100
_CODES, _CLOSED_UP = LEXICAL_KINDS.index("codes"), LEXICAL_KINDS.index("closed up")
_MEASURES = (
    "cosine", "jaccard", "most contained", "least contained", "common", "fewest missing", "most missing",
    "rarest common", "rarest missing, lower", "rarest missing, higher",
)  # fmt: skip
EVIDENCE = (
    "cosine of titles", "cosine of images", "cosine of titles with images", "logit of vectors",
    *(f"{kind}: {measure}" for measure in _MEASURES for kind in LEXICAL_KINDS),
)  # fmt: skip
"""What [`PairEvidence`] knows of a pair, in the order of its features."""
_NUM_TREES, _NUM_NODES, _MAX_DEPTH = 300, 29, 6  # of boosted trees
BLOCK_PAIRS = 512  # weighed at a time: what the trees look up stays in a core's cache


@dataclass
class ProductEmbeds(ModelOutput):
    """Vectors of products by modality; the fields of a modality that the head does not use are `None`.

    Vectors have the length `sqrt(width)`, so that their components vary by about one and the cosine of two of them is
    their dot product divided by the width. Where a product lacks a modality, the learned missing-modality embedding,
    of any length, takes the vector's place.

    Args:
        text: Vectors of the titles, shape `(B, text width)`.
        image: Vectors of the images, shape `(B, image width)`.
        has_text: Which products have a title, bool, shape `(B,)`.
        has_image: Which have an image, likewise.
        lexical: Hashed n-grams of the titles, as the processor's `lexical_ids` gives them, int32, shape `(B, 1024)`.
    """

    text: torch.Tensor | None = None
    image: torch.Tensor | None = None
    has_text: torch.Tensor | None = None
    has_image: torch.Tensor | None = None
    lexical: torch.Tensor | None = None

    @property
    def modalities(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The modalities that are used: `{"text" or "image": (vectors (B, width), which products have it (B,))}`."""
        fields = {"text": (self.text, self.has_text), "image": (self.image, self.has_image)}
        return {
            name: (embeds, has) for name, (embeds, has) in fields.items() if embeds is not None and has is not None
        }

    def joined(self) -> torch.Tensor:
        """Concatenate the modalities to one vector per product, of unit length.

        The cosine of two such vectors is the mean of their modalities' cosines.

        Returns:
            The vectors, shape `(B, sum of the widths)`.
        """
        parts = [embeds / embeds.shape[-1] ** 0.5 for embeds, _ in self.modalities.values()]
        return normalize(torch.cat([part.to(parts[0].device) for part in parts], dim=-1))


def apply_linear(linear: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """Apply a linear layer to vectors of any floating type.

    Args:
        linear: The layer. Quantised weights, whose type is not the one they compute in, take the vectors as they are.
        vectors: Shape `(B, in_features)`.

    Returns:
        Shape `(B, out_features)`.
    """
    dtype = getattr(linear.weight, "dtype", None)  # of torch's own quantised layers, `weight` is a method
    return linear(vectors.to(dtype) if dtype is not None and dtype.is_floating_point else vectors)


class LexicalLinear(nn.Module):
    """A linear classifier of titles by the TF-IDF of their n-grams; fitted by `fit_lexical`, not by gradients.

    Args:
        num_rows: Rows of weights for each of the three kinds; n-grams of one hash share a row.
        num_classes: Number of classes.
    """

    num_kinds = 3  # the first of `LEXICAL_KINDS`
    weight: torch.Tensor
    idf: torch.Tensor

    def __init__(self, num_rows: int, num_classes: int):
        """Build the rows, and one for the n-grams that do not count."""
        super().__init__()
        self.num_rows = num_rows
        shape = (self.num_kinds * num_rows + 1, num_classes)
        self.register_buffer("weight", torch.zeros(shape))
        self.register_buffer("idf", torch.zeros(shape[0]))

    def rows(self, lexical: torch.Tensor) -> torch.Tensor:
        """Return the row of each n-gram, int64, the shape of `lexical`."""
        kinds, hashes = lexical.long() >> LEXICAL_BITS, lexical.long() % 2**LEXICAL_BITS
        rows = kinds * self.num_rows + hashes % self.num_rows
        return torch.where(kinds < self.num_kinds, rows, self.num_kinds * self.num_rows)

    def forward(self, lexical: torch.Tensor) -> torch.Tensor:
        """Classify titles.

        Args:
            lexical: Their hashed n-grams, as [`ProductEmbeds`] holds them, shape `(B, N)`.

        Returns:
            Logits, float32, shape `(B, num_classes)`.
        """
        rows = self.rows(lexical)
        weights = nn.functional.normalize(self.idf.float()[rows], dim=1)
        return F.embedding_bag(rows, self.weight.float(), per_sample_weights=weights, mode="sum")


class LateFusionClassifier(nn.Module):
    """Classify products from their titles, their images or both.

    Args:
        widths: Width of the vectors of each modality that it uses: of `"text"`, `"image"` or both.
        num_classes: Number of classes.
        lexical_rows: As for [`LexicalLinear`]; 0 for titles by their vectors alone.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int, lexical_rows: int = 0):
        """Build a linear classifier per modality, and their fusion."""
        super().__init__()
        self.lexical = LexicalLinear(lexical_rows, num_classes) if lexical_rows and "text" in widths else None
        self.text = nn.Linear(widths["text"], num_classes) if "text" in widths else None
        self.image = nn.Linear(widths["image"], num_classes) if "image" in widths else None
        if self.text is not None and self.image is not None:
            self.fusion_scale = nn.Parameter(torch.full((2,), 0.5))  # of the title, of the image
            self.fusion_bias = nn.Parameter(torch.zeros(num_classes))

    def modality_logits(self, embeds: ProductEmbeds) -> dict[str, torch.Tensor]:
        """Classify by each modality alone.

        Args:
            embeds: The products.

        Returns:
            Log probabilities, float32, shape `(B, num_classes)`, by `"text"`, `"image"` or both. Where a product lacks
            the modality they are those of the missing-modality embedding, uniform at the start.
        """
        log_probabilities = {}
        for modality, (vectors, has_modality) in embeds.modalities.items():
            linear = getattr(self, modality)
            logits = apply_linear(linear, vectors).float()
            # The bias holds the frequency of a class, which is no evidence where the modality is missing.
            bias = linear.bias() if callable(linear.bias) else linear.bias  # a method of torch's quantised layers
            logits = logits - (~has_modality).unsqueeze(1) * bias.float()
            if modality == "text" and self.lexical is not None and embeds.lexical is not None:
                logits = logits + self.lexical(embeds.lexical)
            log_probabilities[modality] = logits.log_softmax(dim=-1)  # (B, num_classes)
        return log_probabilities

    def fuse(self, modality_logits: Mapping[str, torch.Tensor], embeds: ProductEmbeds) -> torch.Tensor:
        """Join the answers of the modalities.

        Args:
            modality_logits: What `modality_logits` returned for `embeds`.
            embeds: The products.

        Returns:
            Logits, float32, shape `(B, num_classes)`.
        """
        if self.text is None or self.image is None:
            (logits,) = modality_logits.values()
            return logits
        text, image = modality_logits["text"], modality_logits["image"].to(modality_logits["text"].device)
        has_text, has_image = (has.to(text.device).unsqueeze(1) for _, has in embeds.modalities.values())
        scale_text, scale_image = self.fusion_scale.float()
        # A modality that is alone has the scale 1; the missing-modality embedding beside it may correct it.
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
            entropy of the joined answer plus the mean of the modalities' own, each over the products that have it.
        """
        modality_logits = self.modality_logits(embeds)
        logits = self.fuse(modality_logits, embeds)
        if labels is None:
            return logits, None
        labels = labels.to(logits.device)
        loss = mean_cross_entropy(logits, labels, class_weights, label_smoothing)
        if len(modality_logits) == 1:
            return logits, loss
        own_losses = [
            mean_cross_entropy(
                modality_logits[modality].to(logits.device),
                labels.masked_fill(~has_modality.to(logits.device), IGNORED_LABEL),
                class_weights,
                label_smoothing,
            )
            for modality, (_, has_modality) in embeds.modalities.items()
        ]
        return logits, loss + torch.stack(own_losses).mean()

    @torch.no_grad()
    def rely_on(self, modality: str) -> None:
        """Take the answer of one modality, `"text"` or `"image"`, wherever a product has both."""
        self.fusion_scale.copy_(torch.tensor([float(modality == "text"), float(modality == "image")]))
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


def lexical_overlap(left: torch.Tensor, right: torch.Tensor, idf: torch.Tensor) -> torch.Tensor:
    """Measure what the titles of pairs have in common literally; swapped titles give the same to the last bit.

    Args:
        left: Hashed n-grams of the first titles, as the processor's `lexical_ids` gives them, shape `(P, N)`.
        right: Those of the second ones.
        idf: Inverse document frequency of every n-gram and of padding, shape `(LEXICAL_PADDING + 1,)`.

    Returns:
        For each measure and kind of n-gram, in the order of `EVIDENCE` after the first four, float32, shape `(P, 80)`:
        not a number where a title has none of the kind. "Contained" is the share of a title's n-grams that the other
        one has, "missing" the number that it has not, and "rarest" the highest IDF.
    """
    is_filled = (torch.cat([left, right]) < LEXICAL_PADDING).any(dim=0)
    width = left.shape[1] if torch.compiler.is_compiling() else max(int(is_filled.sum()), 1)
    sides = [left[:, :width].contiguous(), right[:, :width].contiguous()]
    found = []
    for own, other in (sides, sides[::-1]):
        kinds, weights = own.long() >> LEXICAL_BITS, idf[own.long()]
        # Codes are looked for in the other title closed up.
        sought = torch.where(kinds == _CODES, own + ((_CLOSED_UP - _CODES) << LEXICAL_BITS), own)
        places = torch.searchsorted(other, sought).clamp(max=width - 1)
        common = (other.gather(1, places) == sought).to(weights.dtype)
        zeros = weights.new_zeros(len(own), len(LEXICAL_KINDS) + 1)  # the last is padding
        sums = [common.new_ones(()).expand_as(common), common, weights**2, common * weights**2]
        rarest = [common * weights, (1 - common) * weights]
        parts = [zeros.scatter_add(1, kinds, values) for values in sums]
        parts += [zeros.scatter_reduce(1, kinds, values, "amax") for values in rarest]
        found.append([part[:, :-1] for part in parts])
    number, common, mass, common_mass, rarest_common, rarest_missing = (
        torch.stack(parts) for parts in zip(*found, strict=True)
    )  # (2, P, kinds) each
    shared, contained, missing = common.mean(dim=0), common / number, number - common
    cosine = common_mass.mean(dim=0) / (mass[0] * mass[1]).sqrt()
    jaccard = shared / (number.sum(dim=0) - shared)
    measures = [
        cosine, jaccard, contained.amax(dim=0), contained.amin(dim=0), shared, missing.amin(dim=0),
        missing.amax(dim=0), rarest_common.amax(dim=0), rarest_missing.amin(dim=0), rarest_missing.amax(dim=0),
    ]  # fmt: skip
    absent = (number == 0).any(dim=0)
    return torch.cat([measure.masked_fill(absent, torch.nan) for measure in measures], dim=1)


class BoostedTrees(nn.Module):
    """Gradient-boosted trees as tensors, nodes numbered over all: scikit-learn fits them, no pickle holds them."""

    feature: torch.Tensor
    threshold: torch.Tensor
    next_node: torch.Tensor
    value: torch.Tensor

    def __init__(self) -> None:
        """Build trees that all answer zero."""
        super().__init__()
        shape, exact = (_NUM_TREES, _NUM_NODES), torch.float32  # a rounded threshold sends pairs to the other side
        self.register_buffer("feature", torch.zeros(shape, dtype=torch.int32))  # that a node asks for
        self.register_buffer("threshold", torch.zeros(shape, dtype=exact))  # up to which it goes left
        self.register_buffer("next_node", torch.zeros(*shape, 3, dtype=torch.int32))  # left, right, where not known
        self.register_buffer("value", torch.zeros(shape, dtype=exact))  # of leaves, their own children

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Sum the trees' answers, shape `(P, F)` to `(P,)`."""
        nodes = torch.arange(0, self.value.numel(), _NUM_NODES, device=features.device).int().repeat(len(features))
        rows = torch.arange(len(features), device=features.device).int().repeat_interleave(_NUM_TREES)
        starts, features = rows * features.shape[1], features.float().flatten()
        for _ in range(_MAX_DEPTH):  # flat tables are several times as fast to look up
            asked = features.index_select(0, starts + self.feature.flatten().index_select(0, nodes))
            turn = (asked > self.threshold.flatten().index_select(0, nodes)).int().masked_fill(asked.isnan(), 2)
            nodes = self.next_node.flatten().index_select(0, 3 * nodes + turn)
        return self.value.flatten().index_select(0, nodes).view(-1, _NUM_TREES).sum(dim=1)


class PairEvidence(nn.Module):
    """Weighs the answer of the vectors, their cosines, and what titles say literally: a linear part and trees.

    Fitted by `modeling_eclip.fitting.fit_evidence`, not by gradients; until then vectors answer. Always in float32.
    """

    idf: torch.Tensor
    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    is_fitted: torch.Tensor

    def __init__(self) -> None:
        """Build it, not fitted."""
        super().__init__()
        self.register_buffer("idf", torch.zeros(LEXICAL_PADDING + 1, dtype=torch.float32))
        self.register_buffer("mean", torch.zeros(len(EVIDENCE), dtype=torch.float32))  # stands for what is not known
        self.register_buffer("weight", torch.zeros(len(EVIDENCE), dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(1, dtype=torch.float32))
        self.register_buffer("is_fitted", torch.zeros(1, dtype=torch.bool))
        self.trees = BoostedTrees()

    def forget(self) -> None:
        """Forget what was fitted."""
        for buffer in self.buffers():
            init.zeros_(buffer)

    def features(self, vectors: torch.Tensor, left: ProductEmbeds, right: ProductEmbeds) -> torch.Tensor:
        """Describe pairs, in the order of `EVIDENCE`, by the first four features and by the products themselves."""
        if left.lexical is None or right.lexical is None:
            overlap = vectors.new_full((len(vectors), len(EVIDENCE) - vectors.shape[1]), torch.nan)
        else:
            titles = left.lexical.to(vectors.device), right.lexical.to(vectors.device)
            overlap = lexical_overlap(*titles, self.idf.float())
        return torch.cat([vectors, overlap], dim=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Answer from features, shape `(P, F)` to log odds, float32 under autocast, too, shape `(P,)`."""
        known = torch.where(features.isnan(), self.mean.float(), features)
        return (known * self.weight.float()).sum(dim=1) + self.bias.float() + self.trees(features)


def select_products(embeds: ProductEmbeds, rows: torch.Tensor) -> ProductEmbeds:
    """Take some products, in the order of `rows`."""
    return ProductEmbeds(**{name: value[rows] for name, value in embeds.items()})


__all__ = [
    "BLOCK_PAIRS", "EVIDENCE", "IGNORED_LABEL", "BoostedTrees", "LateFusionClassifier", "LexicalLinear",
    "PairEvidence", "ProductEmbeds", "apply_linear", "lexical_overlap", "mean_cross_entropy", "select_products",
]  # fmt: skip
