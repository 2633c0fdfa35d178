"""Heads on a split, measured with intervals and drawn.

`task_evaluation` loads a head and measures it, `predictions` lets it answer, `task_metrics` turns answers into metrics
with the intervals of `bootstrap`, and `gallery` draws them. What differs from task to task is asked of the task.
"""
