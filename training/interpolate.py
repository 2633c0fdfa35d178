"""Interpolate two checkpoints: `training/interpolate.py START TRAINED OUTPUT --share 0.5`.

WiSE-FT (Wortsman et al. 2022): between the weights that fine-tuning started from and those that it came to, there are
models that know the new data nearly as well and have forgotten less of the old. The temperature is interpolated, too.
"""

import argparse
import logging
from collections.abc import Sequence

import torch
from transformers import AutoConfig

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from training.engine.nonfinite import check_weights

logger = logging.getLogger("training")


@torch.no_grad()
def interpolate_models(start: EClipModel, trained: EClipModel, share: float) -> EClipModel:
    """Move a model towards another along the straight line between their weights.

    Args:
        start: The model that training started from.
        trained: The model that it came to, of the same architecture; changed in place.
        share: Share of the way from `start` to `trained`, 0 to 1.

    Returns:
        `trained`, with `(1 - share) * start + share * trained` for weights. What is not of floating point (counters)
        stays its own.

    Raises:
        ValueError: the share is out of range, or the models have other tensors.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"`share` is {share}; give 0 (the start) to 1 (the trained model).")
    starts, ends = start.state_dict(), trained.state_dict()
    for name in sorted(starts.keys() | ends.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (starts, ends)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"tensor {name!r} has shape {shapes[0]} at the start and {shapes[1]} in the trained model; give two "
                "checkpoints of one architecture, such as the one that the training continued from."
            )
    for name, end in ends.items():
        if end.is_floating_point():
            end.copy_(starts[name].lerp(end, share))
    return trained


def load_model(checkpoint: str) -> EClipModel:
    """Load an e-CLIP checkpoint, or the CLIP-like one that a training continued from, in float32."""
    if AutoConfig.from_pretrained(checkpoint).model_type != EClipConfig.model_type:
        return EClipModel.from_clip(checkpoint)
    return EClipModel.from_pretrained(checkpoint, dtype=torch.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and interpolate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", help="checkpoint that training started from: e-CLIP or CLIP, Hub id or folder")
    parser.add_argument("trained", help="e-CLIP checkpoint that it came to")
    parser.add_argument("output", help="folder for the model in between; its processor is that of `trained`")
    parser.add_argument("--share", type=float, default=0.5, help="share of the way from start to trained")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = interpolate_models(load_model(arguments.start), load_model(arguments.trained), arguments.share)
    check_weights(model, "not saved")
    model.save_pretrained(arguments.output)
    EClipProcessor.from_pretrained(arguments.trained).save_pretrained(arguments.output)
    logger.info(
        "the model %s of the way from %s to %s is in %s",
        arguments.share,
        arguments.start,
        arguments.trained,
        arguments.output,
    )


__all__ = ["interpolate_models", "load_model"]


if __name__ == "__main__":
    main()
