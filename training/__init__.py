"""Training, evaluation and data preparation; run from a clone, not part of the wheel."""
