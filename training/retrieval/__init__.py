"""Offers embedded, and how well they are found again."""
