"""The losses of pre-training.

- `objective`: what training minimises; the one place where terms are added up.
- `contrastive`: titles against images, with soft labels over catalogs; titles (or images) against each other.
- `tiles`, `sigmoid`: how both are computed without a matrix of all pairs, by a softmax and by a sigmoid of each pair;
  `sweep`: what these have in common; `gather`: over all ranks.
- `exact_products`: their matrix products in true float32, whatever the towers are computed in.
- `matryoshka`: a loss at several embedding sizes.

The dense form of the contrastive losses, which travels with a checkpoint, is in `modeling_eclip/modeling_eclip.py`.
"""
