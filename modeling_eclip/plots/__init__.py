"""Drawings of products and their neighbours."""
