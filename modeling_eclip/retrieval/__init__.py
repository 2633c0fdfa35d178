"""Searching and grouping products by their embeddings.

`neighbors` finds nearest neighbours, exactly or by faiss, and pairs of products that are near. `linkage` groups
products by average linkage over these, `clusters` does so modality by modality. `binary` searches by one bit of each
value, and `ranking` measures retrieval. faiss is optional: `faiss_index` imports it, or names the remedy.
"""
