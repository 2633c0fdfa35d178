"""The five tasks, a file each, and what they share.

`category`, `attributes`, `matching`, `clustering` and `adult` hold all that is particular to a task: a subclass of
`Task` (in `task`), which `registry` finds. `classifier_task` and `yes_or_no_task` hold what several of them share.

`labels`, `label_share` and `splits` read what is learned from, `features` embeds products once, `heads` builds and
loads heads, `finetuning` learns a task from arguments to a saved head, `loop` trains and `best_weights` keeps the
best. `answers` is what evaluation gets, `baseline` what the classical baseline of the report learns with.
"""
