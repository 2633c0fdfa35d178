"""How to load a checkpoint, in the words of its card: blocks of Python that run as they are.

Contract: a pure function of what the checkpoint is. The first block needs transformers alone, the second one this
package; heads that have a pipeline of their own are shown in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..pipelines_eclip import (
    CLASSIFICATION,
    MATCHING,
    EClipProductClassificationPipeline,
    EClipProductMatchingPipeline,
)

_ONE_PRODUCT = {"text": 'text=["a red shoe"]', "image": 'images=["shoe.jpg"]', "both": 'text=["a red shoe"]'}
_BOTH_SIDES = '  # and images=["shoe.jpg"], or both'
_PRODUCTS = {
    "text": '"a red shoe"',
    "image": '{"image": "shoe.jpg"}',
    "both": '{"text": "a red shoe", "image": "shoe.jpg"}',
}


def loading_snippets(
    name: str, inputs: str, answer: str, modality: str, repo_id: str, adapter_config: Mapping[str, Any] | None
) -> str:
    """Show the ways to load a checkpoint, in blocks of Python that run as they are.

    Args:
        name: Its class.
        inputs: What it looks at in a call: "one" product, a "pair", or "many".
        answer: Expression of its answer, from `head` or from the outputs.
        modality: Which side of a product it looks at.
        repo_id: Its repository, `owner/name`.
        adapter_config: Content of `adapter_config.json`, of adapters.

    Returns:
        Markdown.
    """
    variable = "model" if name == "EClipModel" else "head"
    use = _use(inputs, answer, modality, variable)
    trusted = f'"{repo_id}", trust_remote_code=True'
    if adapter_config:
        base = adapter_config["base_model_name_or_path"]
        stranger = [
            "import torch",
            "from peft import PeftModel",
            "from transformers import AutoConfig, AutoModel, AutoProcessor",
            "",
            f"config = AutoConfig.from_pretrained({trusted})",
            f'{variable} = AutoModel.from_pretrained("{base}", config=config, trust_remote_code=True)',
            f'model = PeftModel.from_pretrained({variable}, "{repo_id}")',
            f"processor = AutoProcessor.from_pretrained({trusted})",
        ]
        friend = [
            "from peft import PeftModel",
            f"from modeling_eclip import EClipConfig, {name}, EClipProcessor",
            "",
            f'config = EClipConfig.from_pretrained("{repo_id}")',
            f'{variable} = {name}.from_pretrained("{base}", config=config)',
            f'model = PeftModel.from_pretrained({variable}, "{repo_id}")',
            f'processor = EClipProcessor.from_pretrained("{repo_id}")',
        ]
        third = ("As a plain model without peft's layers, from there on", [f"{variable} = model.merge_and_unload()"])
        use = use.replace(f"{variable}(**inputs)", "model.eval()(**inputs)")
    else:
        stranger = [
            "import torch",
            "from transformers import AutoModel, AutoProcessor",
            "",
            f"{variable} = AutoModel.from_pretrained({trusted})",
            f"processor = AutoProcessor.from_pretrained({trusted})",
        ]
        friend = [
            f"from modeling_eclip import {name}, EClipProcessor",
            "",
            f'{variable} = {name}.from_pretrained("{repo_id}")',
            f'processor = EClipProcessor.from_pretrained("{repo_id}")',
        ]
        if name == "EClipModel":
            third = (
                "With sentence-transformers",
                [
                    "from sentence_transformers import SentenceTransformer",
                    "",
                    f"model = SentenceTransformer({trusted})",
                    'embeds = model.encode(["a red shoe"], normalize_embeddings=True)',
                ],
            )
        else:
            third = (
                "As the e-CLIP model that it stands on, without the head",
                [
                    "from transformers import AutoModel",
                    "",
                    f"model = AutoModel.from_pretrained({trusted})",
                ],
            )
    pipeline = [] if adapter_config else _pipeline(name, modality, repo_id)
    return "\n\n".join(
        [
            "By its own code, which comes with it. `trust_remote_code=True` runs that code: read it first, and name "
            'the `revision="..."` that you have read.',
            _code([*stranger, "", use]),
            "With the package `modeling-eclip` installed, whose code is used then; nothing of this repository runs:",
            _code(friend),
            f"{third[0]}:",
            _code(third[1]),
            *pipeline,
        ]
    )


def _use(inputs: str, answer: str, modality: str, variable: str) -> str:
    """Show what to do with it."""
    more = _BOTH_SIDES if modality == "both" else ""
    if inputs == "one":
        lines = [f'inputs = processor({_ONE_PRODUCT[modality]}, return_tensors="pt"){more}']
    else:
        some = {"image": 'images=["shoe.jpg", "shoe.jpg"]'}.get(modality, 'text=["a red shoe", "red shoe, size 9"]')
        lines = [f'inputs = processor({some}, return_tensors="pt"){more}']
        if inputs == "pair":  # a row is two products
            lines.append("inputs = {name: values.unsqueeze(0) for name, values in inputs.items()}")
    answer = answer if answer.startswith(variable) else f"outputs.{answer}"
    result = "embeds" if variable == "model" else "answer"
    run = ["with torch.no_grad():", f"    outputs = {variable}(**inputs)", f"{result} = {answer}"]
    return "\n".join([*lines, *run])


def _pipeline(name: str, modality: str, repo_id: str) -> list[str]:
    """Show a head in its own pipeline, if it has one."""
    product = _PRODUCTS[modality]
    if name in EClipProductMatchingPipeline.heads:
        task, variable, products = MATCHING, "match", f"({product}, {product})"
    elif name in EClipProductClassificationPipeline.heads:
        task, variable, products = CLASSIFICATION, "classify", product
    else:
        return []
    lines = [
        "from transformers import pipeline",
        "",
        f'{variable} = pipeline("{task}", model="{repo_id}", trust_remote_code=True)',
        f"labels = {variable}([{products}])",
    ]
    return ["In its own pipeline of transformers:", _code(lines)]


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


__all__ = ["loading_snippets"]
