"""A model on the line between two checkpoints (WiSE-FT, Wortsman et al. 2022)."""

import logging

import torch
from transformers import AutoConfig

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from training.arguments.interpolate import InterpolateArguments
from training.engine.adapter_files import load_eclip
from training.engine.nonfinite import check_weights

__all__ = ["interpolate_checkpoints", "interpolate_models", "load_model"]

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
        ValueError: the share is out of range, or the models have other tensors, or other losses.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"`share` is {share}; give 0 (the start) to 1 (the trained model).")
    losses = start.config.loss, trained.config.loss
    if losses[0] != losses[1]:
        raise ValueError(
            f"the `loss` of the start is {losses[0]!r} and that of the trained model {losses[1]!r}, which scale "
            "similarities in their own ways; give two checkpoints of one loss."
        )
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
    return load_eclip(checkpoint)


def _vocabulary(checkpoint: str) -> dict[str, int] | None:
    """Return the numbers of an e-CLIP's tokens; `None` for one that was saved without its tokenizer."""
    try:
        return EClipProcessor.from_pretrained(checkpoint).tokenizer.get_vocab()
    except (OSError, ValueError):
        return None


def interpolate_checkpoints(arguments: InterpolateArguments) -> None:
    """Write the model between two checkpoints, with the processor of the trained one.

    Args:
        arguments: The checkpoints, the share and the folder.

    Raises:
        ValueError: One is a head, the two are of different architectures or number tokens in their own ways, or the
            result has values that are not finite.
    """
    ends = (arguments.start, arguments.checkpoint)
    models = [load_model(end) for end in ends]
    for end, model in zip(ends, models, strict=True):
        if heads := [name for name in model.config.architectures or [] if name.startswith("EClipFor")]:
            raise ValueError(f"{end} is of {heads[0]}, whose own weights would be lost; give models without a head.")
    vocabularies = [_vocabulary(end) for end in ends]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise ValueError(
            f"{ends[0]} and {ends[1]} have tokenizers of different vocabularies: vectors of different words would be "
            "mixed; give two checkpoints of one training."
        )
    start, trained = models
    model = interpolate_models(start, trained, arguments.share)
    check_weights(model, "not saved")
    model.save_pretrained(arguments.output_dir)
    EClipProcessor.from_pretrained(arguments.checkpoint).save_pretrained(arguments.output_dir)
    logger.info("the model %s of the way from %s to %s is in %s", arguments.share, *ends, arguments.output_dir)
