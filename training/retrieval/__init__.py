"""Retrieval: `offer_embeddings` embeds a set of offers, `retrieval_metrics` measures how well they are found."""
