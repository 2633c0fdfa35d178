"""Publishing to the Hub: the files of a checkpoint, its card, and the Auto classes."""
