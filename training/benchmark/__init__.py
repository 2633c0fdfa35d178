"""The report: methods compared on all tasks, what `training/report.py` is made of.

`runs` computes one learning of a task after the other and keeps what it answered, `classical` is the baseline on the
features of `classical_features`, `tables` measures runs and writes `report.json`, `report.md` and its curves, and
`kept_heads` keeps and draws the best heads.
"""
