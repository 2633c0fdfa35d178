"""Raw offers to a clean corpus: the steps in their order, a file each. `pipeline` calls them.

1. `plan_parts`: the input's files, divided into parts.
2. `read_offers`: each offer is read, its image fetched (`fetch_images`, `download_images`), its title cleaned
   (`title_rules`) and its image examined (`image_facts`).
3. `drop_duplicates`: repeated offers and placeholder images, found by equal values and by `similar_pairs`.
4. `drop_mismatches`: titles and images that do not belong together, by `mismatch_scores` of a model.
5. `derive_catalogs`: offers of one product, from similar pairs and `model_pairs`.
6. `assign_splits`: for each offer its split, or why it is dropped.
7. `write_shards`: the corpus as parquet files.
8. `report_counts`, `report_charts`, `report_page`: the report.
"""
