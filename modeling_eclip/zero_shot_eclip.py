"""Classification without training: a class is what the title tower makes of its name.

Titles and images of products are compared with the embeddings of the names, in the space that e-CLIP was trained in.
Where both are there, the mean of the two similarities counts.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .modeling_eclip import normalize
from .representation_eclip import EClipTaskModel


@torch.no_grad()
def embed_names(model: EClipTaskModel, processor: Any, names: Sequence[Sequence[str]]) -> torch.Tensor:
    """Embed classes by their names.

    Args:
        model: A head, in evaluation mode.
        processor: The [`EClipProcessor`] of its checkpoint.
        names: The names of each class; a class with several of them is their mean.

    Returns:
        Embeddings of unit length, shape `(num_classes, projection_dim)`.
    """
    embeds = []
    for class_names in names:  # one class at a time: as many tokens as it takes, and no more
        tokens = processor(text=list(class_names), return_tensors="pt").to(model.device)
        features = model.eclip.get_text_features(tokens["input_ids"], tokens.get("attention_mask")).pooler_output
        embeds.append(normalize(normalize(features).mean(dim=0)))
    return torch.stack(embeds)


def zero_shot_logits(
    model: EClipTaskModel,
    class_embeds: torch.Tensor,
    has_text: torch.Tensor | None = None,
    has_image: torch.Tensor | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """Compare products with classes.

    Args:
        model: A head; its `modality` tells what is compared.
        class_embeds: What `embed_names` returned, shape `(num_classes, projection_dim)`.
        has_text: Which products have a title, bool, shape `(B,)`; `None` means all, if titles are given.
        has_image: The same for images.
        **inputs: As for [`EClipModel`]: `input_ids`, `attention_mask`, `pixel_values`, ...

    Returns:
        Logits, float32, shape `(B, num_classes)`: the mean of the similarities that there are, divided by the
        temperature.

    Raises:
        ValueError: neither titles nor images are given that the head looks at.
    """
    if model.config.modality == "image":
        inputs.update(input_ids=None, text_pooler_output=None)
    if model.config.modality == "text":
        inputs.update(pixel_values=None, image_pooler_output=None)
    output = model.eclip(**inputs)
    device = class_embeds.device
    similarities, weights = [], []
    for embeds, has_side in ((output.text_embeds, has_text), (output.image_embeds, has_image)):
        if embeds is None:
            continue
        present = torch.ones(len(embeds), dtype=torch.bool) if has_side is None else has_side.bool()
        present = present.to(device).unsqueeze(1)
        similarity = (embeds @ class_embeds.to(embeds).T).float().to(device)  # (B, num_classes)
        # Not multiplied: a row that is not to be read may hold anything.
        similarities.append(similarity.masked_fill(~present, 0))
        weights.append(present.float())
    mean = torch.stack(similarities).sum(dim=0) / torch.stack(weights).sum(dim=0).clamp(min=1)
    return model.eclip.logit_scale.float().exp().to(device) * mean


__all__ = ["embed_names", "zero_shot_logits"]
