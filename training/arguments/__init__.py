"""What scripts can be told, and how it is read."""
