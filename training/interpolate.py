"""Interpolate two checkpoints: `python training/interpolate.py START TRAINED OUTPUT --share 0.5`.

WiSE-FT (Wortsman et al. 2022): between the weights that fine-tuning started from and those that it came to, there are
models that know the new data nearly as well and have forgotten less of the old. The temperature is interpolated, too.
"""

from training.arguments.interpolate import InterpolateArguments
from training.arguments.parser import parse_arguments
from training.arguments.script import script


@script()
def main() -> None:
    """Parse the arguments and interpolate."""
    (arguments,) = parse_arguments((InterpolateArguments,), positional=("start", "checkpoint", "output_dir"))

    from training.engine.interpolate import interpolate_checkpoints

    interpolate_checkpoints(arguments)


if __name__ == "__main__":
    main()
