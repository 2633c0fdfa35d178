"""EClipForProductClustering: a set of products -> groups, without knowing how many.

Every product becomes one vector, so that a dot product says how alike two are; groups are joined by average linkage
over nearest neighbours (e-CLIP, Shin et al. 2022, has product clustering among its downstream tasks; the head is this
package's).

Notable choices:
- the vectors start as those of the towers, and a linear map per side, which starts as the identity, is what a frozen
  model learns;
- it learns from catalogs, by supervised contrast (Khosla et al. 2020), over the batch, without a `B x B` matrix;
- a side that a product has not is zero in its vector: what has no title is compared by images.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .linkage_eclip import average_linkage, number_groups
from .losses_eclip import mate_contrast_loss
from .neighbors_eclip import nearest_neighbors
from .normalization_eclip import normalize
from .product_embeds_eclip import ProductEmbeds
from .representation_eclip import EClipTaskModel, side_widths


@dataclass
class ClusteringOutput(ModelOutput):
    """What [`EClipForProductClustering`] returns.

    Args:
        loss: The contrastive loss, a scalar; with `labels`.
        embeds: One vector per product, of unit length, float32, shape `(B, sum of the sides' widths)`. The dot product
            of two is their similarity.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None


class IdentityLinear(nn.Linear):
    """A linear map that starts as the identity.

    Args:
        width: Width of the vectors.
    """

    def __init__(self, width: int):
        """Build the map."""
        super().__init__(width, width, bias=False)


class SideProjection(nn.Module):
    """A linear map per side, and how much each side counts.

    Args:
        widths: Width of the vectors of each side: of `"text"`, `"image"` or both.
    """

    def __init__(self, widths: dict[str, int]):
        """Build the maps."""
        super().__init__()
        self.text = IdentityLinear(widths["text"]) if "text" in widths else None
        self.image = IdentityLinear(widths["image"]) if "image" in widths else None
        # Of the title, of the image.
        self.fusion_scale = nn.Parameter(torch.ones(2)) if len(widths) == 2 else None

    def forward(self, embeds: ProductEmbeds) -> dict[str, torch.Tensor]:
        """Map the sides of products.

        Args:
            embeds: The products.

        Returns:
            Vectors of unit length, float32, shape `(B, width)` per side; zero where a product has not the side.
        """
        mapped = {}
        for side, (vectors, has_side) in embeds.sides.items():
            linear = getattr(self, side)
            mapped[side] = normalize(linear(vectors.to(linear.weight.dtype)).float()) * has_side.unsqueeze(1)
        return mapped

    def join(self, mapped: dict[str, torch.Tensor]) -> torch.Tensor:
        """Join the sides of products in one vector each, of unit length, shape `(B, sum of the widths)`."""
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
        self.product_projection = SideProjection(side_widths(config))
        if config.modality == "both":
            # A side that is not there counts nothing here.
            self.representation.text_stand_in.requires_grad_(False)
            self.representation.image_stand_in.requires_grad_(False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IdentityLinear):
            init.eye_(module.weight)
        elif isinstance(module, SideProjection) and module.fusion_scale is not None:
            init.ones_(module.fusion_scale)

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> ClusteringOutput:
        """Give each product, represented already, its vector.

        Args:
            embeds: The products.
            labels: Catalog of each product, int64, shape `(B,)`, negative for a product that is alone.

        Returns:
            [`ClusteringOutput`]. The loss is that of the joined vectors plus the mean of the sides' own, each over the
            products that have the side, so that one side alone tells products apart, too.
        """
        mapped = self.product_projection(embeds)
        joined = self.product_projection.join(mapped)
        loss = None
        if labels is not None:
            labels = labels.to(joined.device)
            scale = torch.tensor(float(self.config.logit_scale_init_value), device=joined.device)
            loss = mate_contrast_loss(joined, scale, labels)
            if len(mapped) == 2:
                own = []
                for side, (_, has_side) in embeds.sides.items():
                    has_side = has_side.to(joined.device)
                    own.append(mate_contrast_loss(mapped[side].to(joined.device)[has_side], scale, labels[has_side]))
                loss = loss + torch.stack(own).mean()
        return ClusteringOutput(loss=loss, embeds=joined)

    @torch.no_grad()
    def cluster(self, embeds: torch.Tensor, threshold: float | None = None) -> torch.Tensor:
        """Group products by their vectors.

        Average linkage over nearest neighbours, see [`average_linkage`]. Of a head that looks at both sides, products
        with both are grouped first; a product with one side then joins the group of the nearest product with both, by
        that side, and what is near to none is grouped by that side with its like. The same vectors have the same
        groups every time.

        Args:
            embeds: Vectors of `N` products as `forward` gives them, shape `(N, D)`.
            threshold: Similarity from which groups are joined; `config.cluster_threshold` if not given.

        Returns:
            Number of each product's group, int64, shape `(N,)`: groups are numbered from 0 in the order of their first
            products.

        Raises:
            ValueError: the vectors are not those of this head, or are not finite.
            ImportError: there are more than 20,000 products on a CPU, and faiss is absent.
        """
        threshold = float(self.config.cluster_threshold if threshold is None else threshold)
        widths = list(self.representation.widths.values())
        if embeds.ndim != 2 or embeds.shape[1] != sum(widths):
            raise ValueError(
                f"`embeds` has shape {tuple(embeds.shape)}; give what `forward` returns as `embeds`, of shape "
                f"(N, {sum(widths)})."
            )
        num_neighbors = self.config.cluster_neighbors
        if len(widths) == 1:
            return average_linkage(embeds, threshold, num_neighbors=num_neighbors).groups()
        sides = embeds.float().split(widths, dim=1)
        has_sides = torch.stack([side.any(dim=1) for side in sides])  # (2, N)
        has_both = has_sides.all(dim=0)
        groups = torch.full_like(has_both, -1, dtype=torch.int64)
        groups[has_both] = average_linkage(embeds[has_both], threshold, num_neighbors=num_neighbors).groups()
        for side, has_side in zip(sides, has_sides, strict=True):
            # Products with both come first: a row below `num_both` is of a group already.
            rows = torch.cat([has_both.nonzero().flatten(), (has_side & ~has_both).nonzero().flatten()])
            num_both = int(has_both.sum())
            if len(rows) == num_both:
                continue
            vectors = normalize(side[rows])
            if num_both:
                similarities, neighbors = nearest_neighbors(vectors, num_neighbors)
                near = (similarities >= threshold) & (neighbors < num_both) & (neighbors >= 0)
                nearest = neighbors.gather(1, near.int().argmax(dim=1, keepdim=True)).squeeze(1)
                joins = near.any(dim=1)
                joins[:num_both] = False
                groups[rows[joins]] = groups[rows[nearest[joins]]]
            alone = groups[rows] < 0
            own = average_linkage(vectors[alone], threshold, num_neighbors=num_neighbors).groups()
            groups[rows[alone]] = own + groups.amax() + 1
        return number_groups(groups)

    @torch.no_grad()
    def fit_threshold(self, embeds: torch.Tensor, labels: torch.Tensor) -> float:
        """Set `config.cluster_threshold` to what groups held-out products best, by the adjusted Rand index.

        Args:
            embeds: Vectors of `N` products as `forward` gives them, shape `(N, D)`.
            labels: Catalog of each product, int64, shape `(N,)`, negative for a product that is alone.

        Returns:
            The index that is reached.

        Raises:
            ValueError: no two products are of one catalog.
        """
        joins = average_linkage(embeds, -1.0, num_neighbors=self.config.cluster_neighbors)
        self.config.cluster_threshold, score = joins.best_threshold(labels)
        return score

    @torch.no_grad()
    def fit_fusion(self, embeds: ProductEmbeds, labels: torch.Tensor) -> float:
        """Fit how much each side counts, and the threshold with it, on held-out products.

        Of titles counting for 0, 1, ... 10 tenths of the similarity, and as learned, the best is kept.

        Args:
            embeds: `N` products; those with both sides count.
            labels: Catalog of each product, int64, shape `(N,)`, negative for a product that is alone.

        Returns:
            The adjusted Rand index that is reached.

        Raises:
            ValueError: no two products are of one catalog.
        """
        mapped = self.product_projection(embeds)
        scale = self.product_projection.fusion_scale
        if scale is None:
            return self.fit_threshold(self.product_projection.join(mapped), labels)
        counted = torch.stack([vectors.any(dim=1).to(labels.device) for vectors in mapped.values()]).all(dim=0)
        mapped = {side: vectors[counted.to(vectors.device)] for side, vectors in mapped.items()}
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


__all__ = ["ClusteringOutput", "EClipForProductClustering", "SideProjection"]
