"""One, two and three processes: loss, gradients and order are those of one process with the joined batch."""

import itertools
import os
import socket

import torch
import torch.distributed as dist
from conftest import assert_same_gradients, make_config, make_inputs
from ranks import run_ranks

from modeling_eclip import (
    ContrastiveObjective,
    EClipModel,
    contrastive_loss,
    dense_contrastive_loss,
    gather_rows,
    mate_contrast_loss,
)
from modeling_eclip.clustering_eclip import _mate_loss

CATALOG_IDS = torch.tensor([4, -1, 4, 9, -1, 9, 4])
WITHOUT_OTHERS = torch.zeros(7, dtype=torch.int64)  # one catalog: masked, no row has another beside its own pair


def build(loss, mates):
    torch.manual_seed(0)
    model = EClipModel(make_config(loss=loss, catalog_mates=mates)).eval().double()  # see `assert_same_gradients`
    if loss == "sigmoid":
        torch.nn.init.constant_(model.logit_bias, -1.0)  # both kinds of pairs have gradients of one size
    return model


SHARES = {1: [(7,)], 2: [(4, 3), (6, 1), (7, 0)], 3: [(3, 2, 2), (5, 0, 2)]}
# Form of the loss, and mode for mates.
FORMS = [("softmax", "positive"), ("softmax", "masked"), ("sigmoid", "positive"), ("sigmoid", "masked")]


def run_rank(rank, num_ranks, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    results = {case: run_case(rank, *case) for case in itertools.product(SHARES[num_ranks], FORMS)}
    results["without others"] = without_others(rank, num_ranks)
    results["counts"] = count_counts(rank)
    torch.save(results, f"{folder}/{num_ranks}-{rank}.pt")
    dist.destroy_process_group()


def run_case(rank, shares, form):
    model = torch.nn.parallel.DistributedDataParallel(build(*form))
    start = sum(shares[:rank])
    rows = slice(start, start + shares[rank])
    # A rank without rows runs a placeholder row, which it leaves out of the loss: its peers wait for it.
    inputs = make_inputs(1) if shares[rank] == 0 else {name: value[rows] for name, value in make_inputs(7).items()}
    output = model(**inputs)
    texts, images = output.text_embeds[: shares[rank]], output.image_embeds[: shares[rank]]
    scale, settings = model.module.logit_scale, {"logit_bias": model.module.logit_bias, "mates": form[1]}
    loss = contrastive_loss(texts, images, scale, CATALOG_IDS[rows], tile_size=2, distributed=True, **settings)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    return loss.detach(), gather_rows(CATALOG_IDS[rows]), gradients


def vectors(num_rows):
    return torch.nn.functional.normalize(torch.arange(4.0 * num_rows).reshape(num_rows, 4).cos(), dim=1)


def without_others(rank, num_ranks):
    """Return losses and gradients where no row has another to be compared with, on some rank or on any."""
    found = []
    for scale in (2.0, 4.6):  # with and without room in float32 for plain exponentials
        for mates, ids, num_rows in (
            ("positive", torch.full((1 - min(rank, 1),), -1), 1 - min(rank, 1)),  # one row in all
            ("masked", WITHOUT_OTHERS[:3], 3),
        ):
            embeds = vectors(num_rows).requires_grad_()
            logit_scale = torch.tensor(scale, requires_grad=True)
            loss = contrastive_loss(embeds, embeds, logit_scale, ids, mates=mates, distributed=True)
            loss.backward()
            found += [loss.detach(), embeds.grad, logit_scale.grad]
        embeds = vectors(1 - min(rank, 1)).requires_grad_()
        loss = mate_contrast_loss(embeds, torch.tensor(scale), torch.zeros(len(embeds), dtype=int), distributed=True)
        loss.backward()
        found += [loss.detach(), embeds.grad]
    return found


def count_counts(rank):
    """Return how many messages of whole numbers a loss with five terms sends: counts, and the terms' catalog ids."""
    config = make_config(matryoshka_dims=[8, 16])
    sent, send = [], dist.all_gather_into_tensor
    with_counts = []

    def note(gathered, own, *arguments, **settings):
        sent.append(tuple(own.shape))
        return send(gathered, own, *arguments, **settings)

    dist.all_gather_into_tensor = note
    try:
        embeds, ids = vectors(5)[:, :1].expand(5, 16).contiguous().requires_grad_(), torch.tensor([1, 1, 2, 2, -1])
        objective = ContrastiveObjective(config, mate_contrast_weight=0.5, distributed=True)
        objective(embeds, embeds, torch.tensor(2.0), ids).backward()
        with_counts.append(sent.count((3,)))
        sent.clear()
        counts = dict.fromkeys(("offers", "text", "image"), [5] * dist.get_world_size())
        objective(embeds, embeds, torch.tensor(2.0), ids, row_counts=counts).backward()
        with_counts.append(sent.count((3,)))
    finally:
        dist.all_gather_into_tensor = send
    return with_counts


def test_ranks_give_the_gradients_of_one(tmp_path, subtests):
    for num_ranks in SHARES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Processes are slow to start: one set does all cases, and a rank that is alone is this process.
        arguments = (num_ranks, port, str(tmp_path))
        if num_ranks == 1:
            run_rank(0, *arguments)
        else:
            run_ranks(run_rank, arguments, num_ranks)
        ranks = [torch.load(tmp_path / f"{num_ranks}-{rank}.pt") for rank in range(num_ranks)]
        for shares, form in itertools.product(SHARES[num_ranks], FORMS):
            model = build(*form)
            loss = model(**make_inputs(7), catalog_ids=CATALOG_IDS, return_loss=True).loss
            loss.backward()
            for rank, results in enumerate(ranks):
                with subtests.test(shares=shares, form=form, rank=rank):
                    rank_loss, catalog_ids, gradients = results[shares, form]
                    assert torch.equal(catalog_ids, CATALOG_IDS)
                    torch.testing.assert_close(rank_loss, loss.detach())
                    assert_same_gradients(gradients, {name: p.grad for name, p in model.named_parameters()})
        for rank, results in enumerate(ranks):
            with subtests.test("rows without others", num_ranks=num_ranks, rank=rank):
                # Of several ranks with three rows each in one catalog, too, every row is compared with itself alone.
                assert not any(value.any() for value in results["without others"])
            with subtests.test("counts", num_ranks=num_ranks, rank=rank):
                # Once for all terms, or not at all where the caller has counted; never by one process alone.
                assert results["counts"] == ([0, 0] if num_ranks == 1 else [1, 0])


def test_one_process_gathers_nothing():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows


def test_rows_without_others_have_no_loss_in_any_form():
    """The dense forms and the tiled ones agree on the limit: nothing to be told apart, nothing lost."""
    for scale in (2.0, 4.6):
        for loss_function in (contrastive_loss, dense_contrastive_loss):
            for num_rows, mates in ((1, "positive"), (1, "negative"), (3, "masked")):
                embeds = vectors(num_rows).requires_grad_()
                ids = WITHOUT_OTHERS[:num_rows]
                loss = loss_function(embeds, embeds, torch.tensor(scale), ids, mates=mates)
                loss.backward()
                assert loss.item() == 0 and not embeds.grad.any()
        for loss_function in (mate_contrast_loss, _mate_loss):
            for num_rows in (0, 1):
                embeds = vectors(num_rows).requires_grad_()
                loss = loss_function(embeds, torch.tensor(scale), WITHOUT_OTHERS[:num_rows])
                loss.backward()
                assert loss.item() == 0 and not embeds.grad.any()
