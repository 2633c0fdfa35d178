"""Arguments of the scripts.

- `groups`: the arguments, as dataclasses with help texts.
- `parser`: a YAML file and the command line -> these dataclasses.
- `schedule`: batch size and learning rate as functions of the samples seen.
"""
