"""The report: methods compared on all tasks."""
