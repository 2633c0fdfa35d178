"""Drawings of runs and of tasks."""
