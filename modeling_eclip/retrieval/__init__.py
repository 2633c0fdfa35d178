"""Nearest neighbours, groups by average linkage, and search by bits."""
