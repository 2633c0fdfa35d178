"""Searching and grouping products by their embeddings.

`neighbors` finds nearest neighbours, exactly or by faiss; `shared_ngrams` those whose titles share what is rare; and
`product_pairs` lists the pairs worth comparing by both. `linkage` groups products by average linkage over neighbours,
`pair_linkage` over scores of pairs, `clusters` modality by modality. `binary` searches by one bit of each value, and
`ranking` measures retrieval. faiss is optional: `faiss_index` imports it, or names the remedy.
"""
