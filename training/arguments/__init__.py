"""Arguments of the scripts.

- `data`, `model`, `train`, `finetune`, ...: the arguments, as dataclasses with help texts.
- `options`: how one argument is declared and checked; `script`: how a mistake is told.
- `parser`: a YAML file and the command line -> these dataclasses.
- `schedule`: batch size and learning rate as functions of the samples seen.
"""
