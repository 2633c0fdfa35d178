"""From rows of any source to batches."""
