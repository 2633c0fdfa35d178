"""Heads measured on a split, with intervals and drawings."""
