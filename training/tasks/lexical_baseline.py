"""What the classical baseline reads literally: the evidence that heads weigh of pairs, without any vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from modeling_eclip.fitting.evidence import fit_evidence, fit_idf, weigh_evidence
from modeling_eclip.fusion_eclip import PairEvidence, ProductEmbeds, select_products

__all__ = ["LexicalBaseline"]

_BLOCK_PAIRS = 2048


class LexicalBaseline:
    """Scores pairs of products by their titles, and by one number more.

    Args:
        titles: Titles of the training products, by which n-grams are weighed.
    """

    def __init__(self, titles: Sequence[str | None]) -> None:
        """Learn how rare n-grams are."""
        self.evidence = PairEvidence()
        fit_idf(self.evidence, titles)

    def features(
        self, lexical: torch.Tensor, left: np.ndarray, right: np.ndarray, cosines: np.ndarray
    ) -> torch.Tensor:
        """Describe pairs.

        Args:
            lexical: Hashed n-grams of the titles of all products, as `lexical_ids` gives them, shape `(N, L)`.
            left: Row of each pair's first product, shape `(P,)`.
            right: Row of its second.
            cosines: Mean cosine of what else is known of the two, shape `(P,)`.

        Returns:
            Features in the order of `EVIDENCE`, those of vectors not a number but for the last, shape `(P, F)`.
        """
        products = ProductEmbeds(lexical=lexical)
        vectors = torch.full((len(left), 4), torch.nan)
        vectors[:, 3] = torch.from_numpy(cosines)
        sides = [torch.from_numpy(np.asarray(rows, dtype=np.int64)).split(_BLOCK_PAIRS) for rows in (left, right)]
        return torch.cat(
            [
                self.evidence.features(block, select_products(products, one), select_products(products, other))
                for block, one, other in zip(vectors.split(_BLOCK_PAIRS), *sides, strict=True)
            ]
        )

    def fit(self, features: Mapping[str, torch.Tensor], labels: Mapping[str, np.ndarray], *, seed: int) -> None:
        """Learn from the pairs of `"train"` what is best on those of `"validation"`.

        Args:
            features: What `features` gives, by split.
            labels: 1 for one product, 0 for two, by split.
            seed: Seed of the trees.
        """
        train, held_out = (
            (features[split], torch.from_numpy(np.asarray(labels[split]))) for split in ("train", "validation")
        )
        fit_evidence(self.evidence, *train, *held_out, seed=seed)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Return the log odds that the two of each pair are one product, or the mean cosines where nothing is better.

        Args:
            features: What `features` gives, shape `(P, F)`.

        Returns:
            Shape `(P,)`.
        """
        return weigh_evidence(self.evidence, features) if self.evidence.is_fitted else features[:, 3]
