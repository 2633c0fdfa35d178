"""How a batch is cut into streams: titles by length and trimmed, images as they come.

Every tower has its own stream size. The last stream holds titles and images together, so that there is always one
forward of the whole model in a step; the others hold one of the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_eclip import EClipConfig
from ..modeling_eclip import IMAGE_INPUTS, TEXT_INPUTS

# What a tower takes, and what takes its place where the tower is frozen.
INPUTS = {"text": (*TEXT_INPUTS, "text_pooler_output"), "image": (*IMAGE_INPUTS, "image_pooler_output")}

# Their own pooled output is that of the last place, padded or not.
_FIXED_LENGTH_TOWERS = ("siglip_text_model", "siglip2_text_model")


@dataclass
class Stream:
    """Part of a batch that is encoded at once.

    Args:
        inputs: Arguments of the model, on the device that the batch's lie on; one placeholder row of a modality that
            no offer of the rank has.
        text_rows: Places in the batch of its titles, int64, shape `(num_titles,)`, on the CPU.
        image_rows: Places of its images, likewise.
    """

    inputs: dict[str, Any]
    text_rows: torch.Tensor
    image_rows: torch.Tensor

    def rows(self, modality: str) -> torch.Tensor:
        """Return the places of a modality, `"text"` or `"image"`."""
        return self.text_rows if modality == "text" else self.image_rows

    def units(self, modality: str) -> int:
        """Return what a modality's memory grows with: tokens of titles, padding too, or images; 0 if it has none."""
        tensors = [self.inputs[name] for name in INPUTS[modality] if name in self.inputs]
        if not tensors:
            return 0
        return tensors[0].numel() if modality == "text" and "input_ids" in self.inputs else len(tensors[0])


@dataclass
class Batch:
    """A rank's share of a batch, cut.

    Args:
        streams: Its streams; one, exactly as it is, where it is not cut.
        has_text: Which offers have a title, bool, shape `(B_rank,)`, on the CPU.
        has_image: Which offers have an image, likewise.
    """

    streams: list[Stream]
    has_text: torch.Tensor
    has_image: torch.Tensor

    @property
    def num_offers(self) -> int:
        """Offers of the share."""
        return len(self.has_text)


def plan_streams(
    inputs: Mapping[str, Any], config: EClipConfig, text_stream_size: int | None, image_stream_size: int | None
) -> Batch:
    """Cut a batch.

    Args:
        inputs: Arguments of [`EClipModel.forward`] for titles and images of the same `B` offers. With `has_text` and
            `has_image`, bool `(B,)`, titles and images are those of the offers that have them, in their order.
        config: The model's configuration.
        text_stream_size: Titles in a stream; `None` means all.
        image_stream_size: Images in a stream; `None` means all.

    Returns:
        The batch in streams.

    Raises:
        ValueError: unknown inputs, some that are no tensors, a missing modality, or modalities with other numbers of
            rows than offers have.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    text = {name: inputs[name] for name in INPUTS["text"] if name in inputs}
    image = {name: inputs[name] for name in INPUTS["image"] if name in inputs}
    has = {name: inputs.pop(f"has_{name}") for name in INPUTS if f"has_{name}" in inputs}
    others = {name: value for name, value in inputs.items() if name not in text and name not in image}
    if reserved := [name for name in ("return_loss", "return_logits", "return_dict") if name in others]:
        raise ValueError(f"`inputs` has {reserved}: the loss and the outputs' form are the step's own; leave it out.")
    if odd := [name for name, value in (text | image).items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(f"`inputs` has {odd} that are no tensors; have the processor `return_tensors='pt'`.")
    if tensors := [name for name, value in others.items() if isinstance(value, torch.Tensor)]:
        known = [*INPUTS["text"], *INPUTS["image"]]
        raise ValueError(f"`inputs` has {tensors}, which cannot be cut into streams; known are {known}.")
    counts = {name: len(value) for name, value in (text | image).items()}
    if not text or not image or len(has) == 1 or (not has and len(set(counts.values())) != 1):
        raise ValueError(
            f"`inputs` has rows {counts}; give titles (`input_ids`) and images (`pixel_values`) of the same offers, "
            "with `has_text` and `has_image` where offers lack one of the two."
        )
    if not has:
        has = dict.fromkeys(INPUTS, torch.ones(next(iter(counts.values())), dtype=torch.bool))
    places = {name: torch.nonzero(exists.cpu())[:, 0] for name, exists in has.items()}
    if len(has["text"]) != len(has["image"]) or any(
        counts[name] != len(places[modality]) for modality in INPUTS for name in INPUTS[modality] if name in counts
    ):
        told = {f"has_{name}": f"{len(places[name])} of {len(exists)}" for name, exists in has.items()}
        raise ValueError(f"`inputs` has rows {counts} and {told}; give a row for each title, and for each image.")
    text_parts = _text_parts(text, places["text"], config, text_stream_size)
    image_parts = _parts(image, places["image"], torch.arange(len(places["image"])), image_stream_size)
    if len(text_parts) == len(image_parts) == 1 and len(places["text"]) and len(places["image"]):
        text_parts, image_parts = [(text, places["text"])], [(image, places["image"])]  # exactly as it is
    nothing = torch.zeros(0, dtype=torch.int64)
    (last_text, last_text_rows), (last_image, last_image_rows) = text_parts[-1], image_parts[-1]
    streams = [
        *(Stream(part, rows, nothing) for part, rows in text_parts[:-1]),
        *(Stream(part | others, nothing, rows) for part, rows in image_parts[:-1]),
        Stream(last_text | last_image | others, last_text_rows, last_image_rows),
    ]
    return Batch(streams, has["text"].cpu(), has["image"].cpu())


def _text_parts(
    text: dict[str, torch.Tensor], places: torch.Tensor, config: EClipConfig, stream_size: int | None
) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Cut titles, the longest first; each part is trimmed to its longest title."""
    # Counted once and on the CPU: of inputs on a GPU, each of these would be waited for.
    lengths = _lengths(text["attention_mask"]).cpu() if "attention_mask" in text else None
    order = _by_length(lengths, len(places), stream_size)
    parts = _parts(text, places, order, stream_size)
    tower = getattr(config.text_config, "model_type", None)
    keeps_length = config.text_pooling == "pooler" and tower in _FIXED_LENGTH_TOWERS
    if lengths is None or keeps_length or not len(places):
        return parts
    return [
        (_trim(part, lengths[chosen]), rows)
        for (part, rows), chosen in zip(parts, _cut(order, stream_size), strict=True)
    ]


def _parts(
    inputs: dict[str, torch.Tensor], places: torch.Tensor, order: torch.Tensor, stream_size: int | None
) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Cut a modality's inputs, and tell the offers that each part is of; a placeholder row if there are none."""
    if not len(places):
        return [({name: value.new_ones((1, *value.shape[1:])) for name, value in inputs.items()}, places)]
    return [(_take(inputs, rows), places[rows]) for rows in _cut(order, stream_size)]


def _by_length(lengths: torch.Tensor | None, num_offers: int, stream_size: int | None) -> torch.Tensor:
    """Return the titles' places, the longest first where they are cut."""
    if lengths is None or stream_size is None or stream_size >= num_offers:
        return torch.arange(num_offers)
    return lengths.argsort(descending=True, stable=True)


def _lengths(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the place after each title's last real token, shape `(B,)`: padding on the left is no shorter."""
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (places * (attention_mask != 0)).amax(1)


def _cut(rows: torch.Tensor, stream_size: int | None) -> list[torch.Tensor]:
    return list(rows.split(stream_size or len(rows)))


def _take(inputs: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return some rows of a modality's inputs: views where the rows are consecutive, which keeps the memory format."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows) and torch.equal(rows, torch.arange(first, last + 1)):
        return {name: value[first : last + 1] for name, value in inputs.items()}
    return {name: value[rows.to(value.device)] for name, value in inputs.items()}


def _trim(text: dict[str, torch.Tensor], lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cut off the places that are padding in all titles of a stream."""
    longest = max(1, int(lengths.max()))
    # Not as views, whose strides would be a form of their own for a tower that is compiled.
    return {
        name: value if name == "text_pooler_output" else value[:, :longest].contiguous()
        for name, value in text.items()
    }


__all__ = ["INPUTS", "Batch", "Stream", "plan_streams"]
