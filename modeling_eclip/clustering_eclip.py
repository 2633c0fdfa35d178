"""EClipForProductClustering: a set of products -> groups, without knowing how many.

Every product becomes one vector, so that a dot product says how alike two are; groups are joined by average linkage
over nearest neighbours (e-CLIP, Shin et al. 2022, has product clustering among its downstream tasks; the head is this
package's).

Notable choices:
- the vectors start as those of the towers; on a frozen model a linear map per modality is trained, which starts as the
  identity;
- it learns from catalogs, by supervised contrast (Khosla et al. 2020) over the batch;
- a missing modality is zero in a product's vector: what has no title is compared by images;
- vectors forget codes and numbers: where what titles say literally tells offers apart better, groups are joined by
  the scores of pairs, which weigh both as a matcher does (`PairEvidence`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .fusion_eclip import BLOCK_PAIRS, PairEvidence, ProductEmbeds, apply_linear, select_products
from .modeling_eclip import find_catalog_mates, normalize, similarity_logits
from .representation_eclip import EClipTaskModel, import_from_package, modality_widths


@dataclass
class ClusteringOutput(ModelOutput):
    """What [`EClipForProductClustering`] returns.

    Args:
        loss: The contrastive loss, a scalar; with `labels`.
        embeds: One vector per product, of unit length, float32, shape `(B, sum of the widths)`. The dot product of two
            is their similarity.
        products: The products as the head saw them.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    products: ProductEmbeds | None = None


class IdentityLinear(nn.Linear):
    """A linear map that starts as the identity.

    Args:
        width: Width of the vectors.
    """

    def __init__(self, width: int):
        """Build the map."""
        super().__init__(width, width, bias=False)


class ModalityProjection(nn.Module):
    """A linear map per modality, and the weight of each modality.

    Args:
        widths: Width of the vectors of each modality: of `"text"`, `"image"` or both.
    """

    def __init__(self, widths: dict[str, int]):
        """Build the maps."""
        super().__init__()
        self.text = IdentityLinear(widths["text"]) if "text" in widths else None
        self.image = IdentityLinear(widths["image"]) if "image" in widths else None
        # Of the title, of the image.
        self.fusion_scale = nn.Parameter(torch.ones(2)) if len(widths) == 2 else None

    def forward(self, embeds: ProductEmbeds) -> dict[str, torch.Tensor]:
        """Map the vectors of products.

        Args:
            embeds: The products.

        Returns:
            Vectors of unit length, float32, shape `(B, width)` per modality; zero for products without it.
        """
        mapped = {}
        for modality, (vectors, has_modality) in embeds.modalities.items():
            linear = getattr(self, modality)
            mapped[modality] = normalize(apply_linear(linear, vectors).float()) * has_modality.unsqueeze(1)
        return mapped

    def join(self, mapped: dict[str, torch.Tensor]) -> torch.Tensor:
        """Concatenate the modalities to one vector per product, of unit length, shape `(B, sum of the widths)`."""
        parts = list(mapped.values())
        if self.fusion_scale is not None:
            parts = [scale * part for scale, part in zip(self.fusion_scale.float(), parts, strict=True)]
        return normalize(torch.cat([part.to(parts[0].device) for part in parts], dim=1))


class EClipForProductClustering(EClipTaskModel):
    """Group products: those of one group are offers of one product.

    Args:
        config: The configuration; its `cluster_threshold` and `cluster_neighbors` count in the groups.
    """

    def __init__(self, config: EClipConfig):
        """Build the maps."""
        super().__init__(config)
        self.product_projection = ModalityProjection(modality_widths(config))
        self.evidence = PairEvidence() if config.lexical_rows else None
        # Over this process's rows; a training loop puts one in its place that is over those of all ranks.
        self.contrast: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = _mate_loss
        if config.modality == "both":
            # A missing modality is zero here, and has no embedding to learn.
            self.representation.missing_text_embedding.requires_grad_(False)
            self.representation.missing_image_embedding.requires_grad_(False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IdentityLinear):
            init.eye_(module.weight)
        elif isinstance(module, ModalityProjection) and module.fusion_scale is not None:
            init.ones_(module.fusion_scale)
        elif isinstance(module, PairEvidence):
            module.forget()

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> ClusteringOutput:
        """Return a vector per product.

        Args:
            embeds: The products.
            labels: Catalog of each product, int64, shape `(B,)`, negative for a product that is alone.

        Returns:
            [`ClusteringOutput`]. The loss is that of the joined vectors plus the mean of the modalities' own, each
            over the products that have it, so that one modality alone tells products apart, too.
        """
        mapped = self.product_projection(embeds)
        joined = self.product_projection.join(mapped)
        loss = None
        if labels is not None:
            labels = labels.to(joined.device)
            scale = torch.tensor(self.config.logit_scale_init_value, dtype=torch.float32, device=joined.device)
            loss = self.contrast(joined, scale, labels)
            if len(mapped) == 2:
                own = []
                for modality, (_, has_modality) in embeds.modalities.items():
                    rows = has_modality.to(joined.device)
                    own.append(self.contrast(mapped[modality].to(joined.device)[rows], scale, labels[rows]))
                loss = loss + torch.stack(own).mean()
        return ClusteringOutput(loss=loss, embeds=joined, products=embeds)

    @torch.no_grad()
    def cluster(
        self, embeds: torch.Tensor, threshold: float | None = None, *, products: ProductEmbeds | None = None
    ) -> torch.Tensor:
        """Group products, as `modeling_eclip.cluster_embeds` does, or by the scores of pairs. Needs the package.

        Args:
            embeds: Vectors of `N` products as `forward` gives them, shape `(N, D)`.
            threshold: Similarity from which groups are joined; `config.cluster_threshold` if not given.
            products: The products as `forward` gives them; needed where the head has learned to score pairs.

        Returns:
            Number of each product's group, int64, shape `(N,)`: groups are numbered from 0 in the order of their first
            products.

        Raises:
            ValueError: the threshold is no similarity, vectors do not fit or are not finite, or products are missing.
            ImportError: the package is not installed; or, beyond 20,000 products on a CPU, faiss is not.
        """
        threshold = float(self.config.cluster_threshold if threshold is None else threshold)
        if not -1 <= threshold <= 1:
            raise ValueError(f"`threshold` is {threshold}; give a similarity, from -1 to 1.")
        if self.scores_pairs:
            if products is None or len(next(iter(products.values()))) != len(embeds):
                raise ValueError("this head scores pairs of `products`; give `outputs.products`, of the same rows.")
            return self.join_pairs(products).groups(threshold)
        clusters = import_from_package("retrieval.clusters", "`cluster`")
        return clusters.cluster_embeds(
            embeds,
            threshold,
            widths=list(self.representation.widths.values()),
            num_neighbors=self.config.cluster_neighbors,
        )

    @property
    def scores_pairs(self) -> bool:
        """Whether groups are joined by the scores of pairs, not by vectors."""
        return self.evidence is not None and bool(self.evidence.is_fitted)

    def pair_evidence(self, products: ProductEmbeds, pairs: torch.Tensor) -> torch.Tensor:
        """Return what [`PairEvidence`] weighs: of vectors, the cosines of the mapped titles, images and both.

        Args:
            products: `N` products.
            pairs: Pairs of row numbers, int64, shape `(P, 2)`.

        Returns:
            Features in the order of `EVIDENCE`, float32, shape `(P, F)`.
        """
        return torch.cat(list(self._pair_evidence(products, pairs)))

    def _pair_evidence(self, products: ProductEmbeds, pairs: torch.Tensor) -> Iterator[torch.Tensor]:
        assert self.evidence is not None
        mapped = self.product_projection(products)
        joined = self.product_projection.join(mapped)
        for block in pairs.split(BLOCK_PAIRS):
            left, right = block.unbind(dim=1)
            cosines = dict.fromkeys(("text", "image", "cross"), joined.new_full((len(block),), torch.nan))
            for modality, vectors in mapped.items():
                has = vectors.any(dim=1)
                cosine = (vectors[left] * vectors[right]).sum(dim=1)
                cosines[modality] = cosine.masked_fill(~(has[left] & has[right]), torch.nan).to(joined.device)
            of_both = (joined[left] * joined[right]).sum(dim=1)
            vectors = torch.stack([*cosines.values(), of_both], dim=1)
            sides = (select_products(products, rows) for rows in (left, right))
            yield self.evidence.features(vectors, *sides)

    @torch.no_grad()
    def pair_probabilities(self, products: ProductEmbeds, pairs: torch.Tensor) -> torch.Tensor:
        """Tell the probability that the two of each pair are one product; arguments as for `pair_evidence`."""
        assert self.evidence is not None
        slope, intercept = self.config.calibration
        logits = [self.evidence(block) for block in self._pair_evidence(products, pairs)]
        return torch.sigmoid(slope * torch.cat(logits) + intercept)

    def join_pairs(self, products: ProductEmbeds) -> Any:
        """Join products by the probability that two of them are one, over the pairs worth comparing.

        Args:
            products: `N` products.

        Returns:
            The joins of `modeling_eclip.retrieval`, of which `groups(threshold)` makes groups.
        """
        linkage = import_from_package("retrieval.product_linkage", "`cluster`")
        score = partial(self.pair_probabilities, products)
        return linkage.join_products(products, score, self.config.cluster_neighbors)

    @torch.no_grad()
    def fit_threshold(
        self,
        embeds: torch.Tensor,
        labels: torch.Tensor,
        *,
        products: ProductEmbeds | None = None,
        min_precision: float = 0.0,
    ) -> float:
        """Set `config.cluster_threshold` to what groups held-out products best, by the adjusted Rand index.

        Args:
            embeds: Vectors of `N` products as `forward` gives them, shape `(N, D)`.
            labels: Catalog of each product, int64, shape `(N,)`, negative for a product that is alone.
            products: As for `cluster`.
            min_precision: Share of the pairs in a group that are to be of one product, one more counted as wrong.

        Returns:
            The index that is reached; 0, with a threshold of 1, where no groups have that precision.

        Raises:
            ValueError: no two products are of one catalog.
        """
        if self.scores_pairs and products is not None:
            joins = self.join_pairs(products)
        else:
            linkage = import_from_package("retrieval.linkage", "`fit_threshold`")
            joins = linkage.average_linkage(embeds, -1.0, num_neighbors=self.config.cluster_neighbors)
        self.config.cluster_threshold, score = joins.best_threshold(labels, min_precision)
        return score

    @torch.no_grad()
    def fit_fusion(self, embeds: ProductEmbeds, labels: torch.Tensor) -> float:
        """Fit the weight of each modality, and the threshold with it, on held-out products.

        The best is kept of the learned weights, and of titles counting for 0, 1, ... 10 tenths of the similarity. A
        head that scores pairs has learned with its weights: of it the threshold alone is fitted.

        Args:
            embeds: `N` products; those with both modalities count.
            labels: Catalog of each product, int64, shape `(N,)`, negative for a product that is alone.

        Returns:
            The adjusted Rand index that is reached.

        Raises:
            ValueError: no two products are of one catalog.
        """
        mapped = self.product_projection(embeds)
        scale = self.product_projection.fusion_scale
        if scale is None or self.scores_pairs:
            return self.fit_threshold(self.product_projection.join(mapped), labels, products=embeds)
        counted = torch.stack([vectors.any(dim=1).to(labels.device) for vectors in mapped.values()]).all(dim=0)
        mapped = {name: vectors[counted.to(vectors.device)] for name, vectors in mapped.items()}
        # As learned comes first: it stays unless another is better.
        shares = torch.linspace(0, 1, 11)
        trials = [scale.detach().cpu().clone(), *torch.stack([shares, 1 - shares], dim=1).sqrt()]
        best: tuple[float, torch.Tensor, float] | None = None
        for trial in trials:
            scale.copy_(trial)
            score = self.fit_threshold(self.product_projection.join(mapped), labels[counted])
            if best is None or score > best[0]:
                best = (score, trial, self.config.cluster_threshold)
        assert best is not None
        score, trial, self.config.cluster_threshold = best
        scale.copy_(trial)
        return score


def _mate_loss(embeds: torch.Tensor, logit_scale: torch.Tensor, catalog_ids: torch.Tensor) -> torch.Tensor:
    """Contrast rows with the other rows of their catalog: `modeling_eclip.mate_contrast_loss` in a dense form."""
    is_mate = find_catalog_mates(catalog_ids)
    logits = similarity_logits(embeds, embeds, logit_scale)  # (B, B)
    is_self = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(is_self, torch.finfo(logits.dtype).min)
    targets = is_mate.to(logits.dtype) / is_mate.sum(dim=1, keepdim=True).clamp(min=1)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")  # zero for a row without mates
    return losses.sum() / is_mate.any(dim=1).sum().clamp(min=1)


__all__ = ["ClusteringOutput", "EClipForProductClustering", "ModalityProjection"]
