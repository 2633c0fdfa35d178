"""Two processes: their gradients are those of one process with the joined batch."""

import itertools
import os
import socket

import torch
import torch.multiprocessing as mp
from conftest import assert_same_gradients, make_config, make_inputs

from modeling_eclip import EClipModel, contrastive_loss, gather_rows

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4])


def build(mates):
    torch.manual_seed(0)
    return EClipModel(make_config(catalog_mates=mates)).eval().double()  # see `assert_same_gradients`


SHARES = [(4, 3), (6, 1), (7, 0)]
MATES = ["positive", "masked"]


def run_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    results = {case: run_case(rank, *case) for case in itertools.product(SHARES, MATES)}
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def run_case(rank, shares, mates):
    model = torch.nn.parallel.DistributedDataParallel(build(mates))
    start = sum(shares[:rank])
    rows = slice(start, start + shares[rank])
    # A rank without rows runs a placeholder row, which it leaves out of the loss: its peers wait for it.
    inputs = make_inputs(1) if shares[rank] == 0 else {name: value[rows] for name, value in make_inputs(7).items()}
    output = model(**inputs)
    texts, images = output.text_embeds[: shares[rank]], output.image_embeds[: shares[rank]]
    loss = contrastive_loss(
        texts, images, model.module.logit_scale, CATALOG_IDS[rows], mates=mates, tile_size=2, distributed=True
    )
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    return loss.detach(), gather_rows(CATALOG_IDS[rows]), gradients


def test_two_ranks_give_the_gradients_of_one(tmp_path, subtests):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Processes are slow to start: one pair does all cases.
    mp.spawn(run_rank, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for shares, mates in itertools.product(SHARES, MATES):
        model = build(mates)
        loss = model(**make_inputs(7), catalog_ids=CATALOG_IDS, return_loss=True).loss
        loss.backward()
        for rank, results in enumerate(ranks):
            with subtests.test(shares=shares, mates=mates, rank=rank):
                rank_loss, catalog_ids, gradients = results[shares, mates]
                assert torch.equal(catalog_ids, CATALOG_IDS)
                torch.testing.assert_close(rank_loss, loss.detach())
                assert_same_gradients(gradients, {name: p.grad for name, p in model.named_parameters()})


def test_one_process_gathers_nothing():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows
