"""From raw offers to a clean corpus."""
