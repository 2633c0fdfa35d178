"""Embedding a whole catalogue: titles by length, images decoded no larger than needed."""
