"""What is fitted to data without training: linear heads, calibration, thresholds, a tokenizer."""
