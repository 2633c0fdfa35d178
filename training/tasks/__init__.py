"""The five tasks, a file each, and what they share.

`category`, `attributes`, `matching`, `clustering` and `adult` are the tasks. Each is a subclass of `Task` (in `task`),
which `registry` finds. `classifier_task` and `yes_or_no_task` are base classes of several of them.

`labels`, `label_share` and `splits` read the training rows and their labels, `features` embeds products once, `heads`
builds and loads heads, `loop` trains them and `best_weights` keeps the best weights. `answers` holds predictions with
their labels for evaluation, and `baseline` the data and the regression of the classical baseline of the report.
"""
