"""What compares rows with each other does so over all ranks: clustering's loss, and retrieval's queries."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from conftest import assert_same_gradients, make_config, make_inputs, train_arguments
from ranks import run_ranks

from modeling_eclip import EClipForProductClustering
from modeling_eclip.retrieval.ranking import ranking_metrics
from training.engine.setup import open_accelerator
from training.tasks.heads import freeze_unused
from training.tasks.loop import ContrastStep

# Offers of one product lie on different ranks; the last two are alone. Some lack a title or an image.
LABELS = torch.tensor([3, 7, 7, 3, 5, 5, -1, -1])
HAS = {
    "has_text": torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]).bool(),
    "has_image": torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]).bool(),
}
SHARES = [(3, 5), (8, 0)]
VECTORS = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0))
GROUPS = torch.arange(30) // 3


def inputs_of(rows):
    return {name: value[rows] for name, value in {**make_inputs(8), **HAS, "labels": LABELS}.items()}


def make_head(**fields):
    torch.manual_seed(0)
    config = make_config(modality_dropout=0.0, **fields)
    for tower in (config.vision_config, config.text_config):
        tower.hidden_dropout_prob = tower.attention_probs_dropout_prob = 0.0
    head = EClipForProductClustering(config)
    freeze_unused(head)  # ranks wait for the gradients of all weights that are trained
    return head


def test_no_scalar_of_pre_training_is_left_to_wait_for():
    eclip = make_head(loss="sigmoid").eclip
    assert not eclip.logit_scale.requires_grad and not eclip.logit_bias.requires_grad


def run_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    accelerator = open_accelerator()
    found = {"recall": ranking_metrics(*VECTORS, [GROUPS], block_size=4, distributed=True)}
    for shares in SHARES:
        step = ContrastStep(make_head(), train_arguments(folder), accelerator, 8)
        start = sum(shares[:rank])
        # A rank without rows has a placeholder row.
        rows = slice(start, start + shares[rank]) if shares[rank] else slice(0, 1)
        loss = step.backward({**inputs_of(rows), "row_ids": ["row"] * shares[rank]})
        found[shares] = loss, {name: parameter.grad for name, parameter in step.bare_model.named_parameters()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_contrast_as_one(tmp_path, subtests):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(run_rank, (port, str(tmp_path)), 2)
    head = make_head().train()
    loss = head(**inputs_of(slice(0, 8))).loss
    loss.backward()
    expected = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.grad is not None}
    alone = ranking_metrics(*VECTORS, [GROUPS])
    assert 0 < alone["recall@1"] < alone["recall@10"]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        with subtests.test("recall", rank=rank):
            assert found["recall"] == pytest.approx(alone, rel=1e-12)
        for shares in SHARES:
            with subtests.test(shares=shares, rank=rank):
                rank_loss, gradients = found[shares]
                torch.testing.assert_close(rank_loss, loss.detach())
                # The head computes in float32, and a new tower's vectors of images are all but alike: what tells them
                # apart has four digits. A loss over one rank's rows has other gradients altogether.
                assert_same_gradients({name: gradients[name] for name in expected}, expected, rtol=1e-3)
