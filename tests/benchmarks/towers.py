"""The towers of the training benchmarks as an `EClipModel`, for the sides that run in this project's environment."""

import torch
from workloads import CONTEXT_LENGTH, TOWER, VOCAB_SIZE, draw_weight

from modeling_eclip import EClipConfig, EClipModel

__all__ = ["build_model"]


def build_model() -> EClipModel:
    """Return the model, in training mode, with the weights that open_clip's side draws too."""
    shape = {
        "hidden_act": "gelu",
        "hidden_size": TOWER["width"],
        "intermediate_size": 4 * TOWER["width"],
        "num_attention_heads": TOWER["heads"],
        "num_hidden_layers": TOWER["layers"],
    }
    config = EClipConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": TOWER["image_size"],
            "patch_size": TOWER["patch_size"],
            **shape,
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": 1,
            "eos_token_id": VOCAB_SIZE - 1,
            "pad_token_id": 0,
            **shape,
        },
        projection_dim=TOWER["projection_dim"],
    )
    model = EClipModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "logit_scale":
                weight.copy_(draw_weight(name, weight.shape))
        model.logit_scale.fill_(3.0)
    return model.train()
