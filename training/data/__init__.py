"""From rows of any source to batches.

The way of a row: `open_sources` opens CSV, JSON Lines, parquet, the Hub or the toy data -> `columns` maps the user's
columns to title, image, catalog_id and row_id -> `read_tables` joins all sources to one table -> `sampler` decides
which row comes when -> `loaders` read the rows of a batch in worker processes -> `collator` makes them the model's
inputs, by `images` and `augmentation`.

`parquet_stream` reads large files in blocks, `pairs` makes pairs of products for matching, `skipped_rows` counts rows
that cannot be used. `files` (files that are written completely or not at all) and `digests` (equal for equal weights
and settings) serve all of `training`.
"""
