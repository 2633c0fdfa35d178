"""e-CLIP for sentence-transformers: a checkpoint is a `SentenceTransformer` of titles, images and products with both.

Contract: `ProductEmbedding` is the one module of it, and gives vectors of unit length in the space that titles and
images share: of a title or an image what [`EClipModel`] gives as `text_embeds` or `image_embeds`; of a product with
both their sum, scaled to unit length, which orders others as the mean of the two similarities does. Titles, images
and products may be mixed in one call. Saving a checkpoint writes what sentence-transformers looks for beside it;
neither that nor this file needs the library.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor

from .modeling_eclip import normalize
from .processing_eclip import HUB_ARGUMENTS, prepare_products, read_product

_MODULE = "sentence_transformers_eclip.ProductEmbedding"
_IMAGE_FILES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")


def write_sentence_transformers_files(folder: str | os.PathLike) -> None:
    """Write what sentence-transformers reads into a checkpoint's folder, which is made if need be."""
    files: dict[str, Any] = {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": _MODULE}],
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (Path(folder) / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class ProductEmbedding(nn.Module):
    """The module that sentence-transformers runs.

    Args:
        model: An [`EClipModel`].
        processor: Its [`EClipProcessor`].
    """

    # sentence-transformers keeps its files in the checkpoint's own folder.
    save_in_root = True

    def __init__(self, model: Any, processor: Any):
        """Join the two."""
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def modalities(self) -> list[Any]:
        """What `encode` takes; `"message"` is also its name for a batch of mixed inputs."""
        return ["text", "image", ("image", "text"), "message"]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of titles."""
        return self.processor.tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self.processor.tokenizer = value

    @property
    def max_seq_length(self) -> int:
        """Tokens that titles are cut to."""
        return self.processor.text_kwargs["max_length"]

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        before, self.processor.max_title_length = self.processor.max_title_length, value
        try:
            self.processor.check_title_settings()
        except ValueError:
            self.processor.max_title_length = before
            raise

    def get_embedding_dimension(self) -> int:
        """Tell the dimension of the shared space."""
        return self.model.config.projection_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Prepare a batch.

        Args:
            inputs: `B` titles, images (also paths of image files), products `{"text": title, "image": image}`,
                or chat messages whose texts and image are those of one product.
            prompt: What titles start with.
            **kwargs: Not used; sentence-transformers tells for what it encodes.

        Returns:
            What `prepare_products` returns.

        Raises:
            ValueError: an input is not a product; the message starts with its place in the batch.
        """
        products = []
        for place, item in enumerate(inputs):
            try:
                title, image = read_product(_from_messages(item) if _is_chat(item) else _from_path(item))
            except ValueError as error:
                raise ValueError(f"inputs[{place}]: {error}") from error
            products.append((title if title is None else (prompt or "") + title, image))
        return prepare_products(self.processor, products)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed a batch.

        Args:
            features: What `preprocess` returned.
            **kwargs: Not used.

        Returns:
            The same with `sentence_embedding`, of unit length, shape `(B, projection_dim)`.
        """
        encoded = self.model.encode_products(features)
        parts = []
        for modality, project in (("text", self.model.text_projection), ("image", self.model.visual_projection)):
            vectors = encoded.get(f"{modality}_pooler_output")
            if vectors is not None:
                # Zero where a product lacks the modality, which then adds nothing.
                parts.append(normalize(project(vectors)))
        embeds = parts[0] if len(parts) == 1 else normalize(parts[0] + parts[1].to(parts[0].device))
        return {**features, "sentence_embedding": embeds}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save the checkpoint to a folder; further arguments are not used, weights are saved as safetensors only."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        cache_folder: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> "ProductEmbedding":
        """Load a checkpoint; arguments as sentence-transformers gives them.

        Args:
            model_name_or_path: Folder or Hub id.
            cache_folder: Where downloads are kept.
            model_kwargs: Further arguments of the model's `from_pretrained`, such as `dtype`.
            processor_kwargs: Further arguments of the processor's.
            config_kwargs: Further arguments of the configuration's.
            backend: `"torch"`.
            **kwargs: Those of the Hub: `token`, `revision`, `local_files_only`, `trust_remote_code`, `subfolder`.

        Returns:
            The module.

        Raises:
            ValueError: another backend is asked for.
        """
        if backend != "torch":
            raise ValueError(f"`backend` is {backend!r}; e-CLIP runs on 'torch' in sentence-transformers.")
        hub = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "trust_remote_code") if name in kwargs}
        hub["cache_dir"] = cache_folder
        config = AutoConfig.from_pretrained(model_name_or_path, **hub, **(config_kwargs or {}))
        model = AutoModel.from_pretrained(model_name_or_path, config=config, **hub, **(model_kwargs or {}))
        processor = AutoProcessor.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {}))
        return cls(model.eval(), processor)


def _is_chat(item: Any) -> bool:
    """Tell one chat message, or a list of them."""
    first = item[0] if isinstance(item, list | tuple) and item else item
    return isinstance(first, Mapping) and "role" in first and "content" in first


def _from_messages(item: Any) -> dict[str, Any]:
    """Read a product from chat messages: their texts as one title, and their image."""
    titles, images = [], []
    for message in [item] if isinstance(item, Mapping) else item:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part.get("type") == "text":
                titles.append(part["text"])
            elif part.get("type") == "image":
                images.append(part["image"])
            else:
                raise ValueError(f"received a message with {part.get('type')!r}; give texts and an image.")
    if len(images) > 1:
        raise ValueError(f"received messages with {len(images)} images; give one per product.")
    return {"text": " ".join(titles) if titles else None, "image": images[0] if images else None}


def _from_path(item: Any) -> Any:
    """Take the path of an image file for the image, as sentence-transformers does; other text is a title."""
    if isinstance(item, str) and item.lower().endswith(_IMAGE_FILES):
        if os.path.isfile(item):
            return {"image": item}
        if item.startswith(("http://", "https://")) and " " not in item:
            raise ValueError(f"received the address {item!r}; nothing is fetched, give the image itself.")
    return item


__all__ = ["ProductEmbedding", "write_sentence_transformers_files"]
