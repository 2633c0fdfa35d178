"""The towers of the training benchmarks as an `EClipModel`, for the sides that run in this project's environment."""

from typing import Any

import torch
from transformers import CLIPImageProcessorPil
from workloads import CONTEXT_LENGTH, TOWER, VOCAB_SIZE, draw_titles, draw_weight

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer

__all__ = ["build_embedder", "build_model"]


def build_embedder() -> tuple[EClipModel, EClipProcessor]:
    """Return a model for embedding, in evaluation mode, and its processor; the tokenizer is trained on titles."""
    tokenizer = train_title_tokenizer(draw_titles(2000), vocab_size=4096, max_title_length=CONTEXT_LENGTH)
    side = TOWER["image_size"]
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = EClipProcessor(image_processor, tokenizer, max_title_length=CONTEXT_LENGTH)
    text_config = {"model_type": "bert", "vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT_LENGTH}
    return build_model(text_config).eval(), processor


def build_model(text_config: dict[str, Any] | None = None) -> EClipModel:
    """Return the model, in training mode, with the weights that open_clip's side draws too.

    Args:
        text_config: What a title tower of another kind has beside the shape; CLIP's if not given.
    """
    shape = {
        "hidden_act": "gelu",
        "hidden_size": TOWER["width"],
        "intermediate_size": 4 * TOWER["width"],
        "num_attention_heads": TOWER["heads"],
        "num_hidden_layers": TOWER["layers"],
    }
    clip_text = {
        "model_type": "clip_text_model",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": 1,
        "eos_token_id": VOCAB_SIZE - 1,
        "pad_token_id": 0,
    }
    config = EClipConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": TOWER["image_size"],
            "patch_size": TOWER["patch_size"],
            **shape,
        },
        text_config={**(text_config or clip_text), **shape},
        projection_dim=TOWER["projection_dim"],
    )
    model = EClipModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "logit_scale":
                weight.copy_(draw_weight(name, weight.shape))
        model.logit_scale.fill_(3.0)
    return model.train()
