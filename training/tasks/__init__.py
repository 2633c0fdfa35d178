"""The five tasks: a file each, and what they share."""
