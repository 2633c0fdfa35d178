"""The contrastive losses: over catalogs, in tiles, over ranks, at several sizes."""
