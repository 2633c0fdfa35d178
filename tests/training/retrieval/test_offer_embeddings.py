"""Offers to embeddings, on one rank: the loader is asked once."""

import torch
from accelerate import Accelerator

from training.data.skipped_rows import SkipCounter
from training.retrieval.offer_embeddings import encode_all


class Numbers(torch.utils.data.Dataset):
    """Three batches of two rows each."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        rows = torch.tensor([2 * number, 2 * number + 1])
        names = [str(row) for row in rows.tolist()]
        ids = {"row_ids": names, "titles": names, "catalog_ids": rows, "positions": rows}
        return {"input_ids": rows, **ids, "skipped": [], "num_rows": 2}


def test_a_loader_starts_its_workers_once(loaders_started):
    loader = torch.utils.data.DataLoader(Numbers(), batch_size=None)

    def encode(inputs):
        return {"vectors": inputs["input_ids"].float()}

    found = encode_all(torch.nn.Identity(), encode, loader, Accelerator(cpu=True), SkipCounter())
    assert found["vectors"].tolist() == found["catalog_ids"].tolist() == [0, 1, 2, 3, 4, 5]
    assert loaders_started == [loader]
