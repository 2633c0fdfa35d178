"""Classification without training: a class is what the title tower makes of its name.

Titles and images of products are compared with the embeddings of the names, in the space that e-CLIP was trained in.
Where both are there, the mean of the two similarities counts.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .normalization_eclip import normalize
from .product_embeds_eclip import ProductEmbeds
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


def zero_shot_logits(model: EClipTaskModel, class_embeds: torch.Tensor, embeds: ProductEmbeds) -> torch.Tensor:
    """Compare products with classes.

    Args:
        model: A head.
        class_embeds: What `embed_names` returned, shape `(num_classes, projection_dim)`.
        embeds: `B` products, as the head represents them.

    Returns:
        Logits, float32, shape `(B, num_classes)`: the mean of the similarities that there are, divided by the
        temperature.
    """
    projections = {"text": model.eclip.text_projection, "image": model.eclip.visual_projection}
    device = class_embeds.device
    similarities, weights = [], []
    for side, (vectors, has_side) in embeds.sides.items():
        # A product's vectors are the tower's but for their length, which the projection hands on.
        projected = normalize(projections[side](vectors.to(projections[side].weight.dtype)))
        similarity = (projected @ class_embeds.to(projected).T).float().to(device)  # (B, num_classes)
        present = has_side.to(device).unsqueeze(1)
        similarities.append(similarity.masked_fill(~present, 0))
        weights.append(present.float())
    mean = torch.stack(similarities).sum(dim=0) / torch.stack(weights).sum(dim=0).clamp(min=1)
    return model.eclip.logit_scale.float().exp().to(device) * mean


__all__ = ["embed_names", "zero_shot_logits"]
