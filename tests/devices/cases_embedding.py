"""Embedding on the device: vectors are those of the CPU."""

import copy

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import noise_image, save_checkpoint
from datasets import Dataset
from fake_cuda import CUDA

from modeling_eclip.inference.embed import embed_products
from training.retrieval.offer_embeddings import embed_dataset

TITLES = ["red shoes", "a blue shirt", "a red square and a blue one", "shoes"]


def products():
    return Dataset.from_list(
        [
            {"title": title, "image": noise_image(row), "row_id": f"r{row}", "catalog_id": row // 2}
            for row, title in enumerate(TITLES)
        ]
    )


def test_products(tmp_path):
    model, processor = save_checkpoint(tmp_path)
    images = [noise_image(seed) for seed in range(4)]
    expected = embed_products(model, processor, TITLES, images)
    settings = {"token_budget": 12, "image_batch_size": 3}
    found = embed_products(copy.deepcopy(model).to(CUDA), processor, TITLES, images, **settings)
    torch.testing.assert_close(found, expected)


def test_offers_of_a_table(tmp_path):
    model, processor = save_checkpoint(tmp_path)
    found = []
    for device in ("cpu", CUDA):
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=device == "cpu")
        assert accelerator.device.type == torch.device(device).type
        offers = embed_dataset(
            copy.deepcopy(model).to(device), processor, products(), accelerator, batch_size=3, num_workers=0
        )
        found.append(offers)
    assert found[0].row_ids == found[1].row_ids == products()["row_id"][:]
    for name in ("text_embeds", "image_embeds", "text_features", "image_features"):
        torch.testing.assert_close(getattr(found[1], name), getattr(found[0], name), rtol=1e-4, atol=1e-5)
