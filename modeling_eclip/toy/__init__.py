"""A drawn catalogue of products, for trying things out."""
