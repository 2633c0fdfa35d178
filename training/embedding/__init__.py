"""A corpus of products to files of vectors, by as many processes as there are devices.

- `embed_corpus`: a run from its arguments to its report, on this machine's devices or on a Ray cluster.
- `embedder`: embeds the rows of a shard with a model.
- `vector_shards`: the files, which are written whole or not at all, so that a stopped run resumes.
"""
