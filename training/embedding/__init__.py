"""A corpus to files of vectors, resumable."""
