"""Relational distillation: hand-computed, against a naive float64 reference, in blocks and over ranks."""

import math
import os
import socket

import pytest
import torch
import torch.distributed as dist
from conftest import unit_rows
from ranks import run_ranks

from modeling_eclip.losses import relations
from modeling_eclip.losses.relations import relational_distillation_loss

NUM_QUERIES, NUM_KEYS = 7, 5


def naive(queries, keys, teacher_queries, teacher_keys, scale, teacher_scale, leave_out_own):
    total = 0.0
    for row in range(len(queries)):
        others = [key for key in range(len(keys)) if not (leave_out_own and key == row)]
        student = torch.stack([scale * (queries[row] @ keys[key]) for key in others]).softmax(0)
        teacher = torch.stack([teacher_scale * (teacher_queries[row] @ teacher_keys[key]) for key in others]).softmax(
            0
        )
        total = total + (teacher * (teacher.log() - student.log())).sum()
    return total / len(queries)


def inputs(leave_out_own, num_keys=NUM_KEYS):
    """Return a student's vectors with a gradient and a teacher's of another size."""
    queries, teacher_queries = unit_rows(NUM_QUERIES, dim=6), unit_rows(NUM_QUERIES, dim=9, seed=1)
    if leave_out_own:
        rows = queries.requires_grad_()
        return rows, rows, teacher_queries, teacher_queries
    return queries.requires_grad_(), unit_rows(num_keys, dim=6, seed=2).requires_grad_(), teacher_queries, unit_rows(
        num_keys, dim=9, seed=3
    )  # fmt: skip


def test_two_rows_by_hand():
    # Teacher: cosines 1 and 0, at scale log 3: probabilities 3/4 and 1/4; student: equal ones.
    queries, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    teacher_keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = relational_distillation_loss(queries, keys, queries, teacher_keys, scale=5.0, teacher_scale=math.log(3))
    assert loss.item() == pytest.approx(0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5), rel=1e-6)


@pytest.mark.parametrize("leave_out_own", [False, True])
@pytest.mark.parametrize("block_numbers", [1, 11, 2**24])
def test_loss_and_gradients_are_those_of_the_naive_form(leave_out_own, block_numbers, monkeypatch):
    monkeypatch.setattr(relations, "_BLOCK_NUMBERS", block_numbers)
    vectors = inputs(leave_out_own)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    own, keys = vectors[:2]
    found = relational_distillation_loss(*vectors, scale=scale, teacher_scale=4.0, leave_out_own=leave_out_own)
    expected = naive(*vectors, scale, 4.0, leave_out_own)
    # Both are float64; sums of a few dozen terms differ by their order.
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(
        torch.autograd.grad(found, (own, keys, scale)), torch.autograd.grad(expected, (own, keys, scale)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_a_student_with_the_teachers_similarities_has_nothing_to_learn():
    rows = unit_rows(6, dim=4)
    turned = rows @ torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())[0]
    loss = relational_distillation_loss(turned, turned, rows, rows, scale=9.0, teacher_scale=9.0, leave_out_own=True)
    assert abs(loss.item()) < 1e-14


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_row_without_others_has_a_loss_of_zero(num_rows):
    rows = unit_rows(num_rows, dim=4).requires_grad_()
    loss = relational_distillation_loss(rows, rows, rows, rows, scale=9.0, teacher_scale=9.0, leave_out_own=True)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_shapes_that_do_not_fit_are_refused():
    rows, fewer = unit_rows(4), unit_rows(3)
    with pytest.raises(ValueError, match=r"`queries` has shape \(4, 8\) and `teacher_queries` \(3, 8\)"):
        relational_distillation_loss(rows, rows, fewer, rows, scale=1.0, teacher_scale=1.0)
    with pytest.raises(ValueError, match="4 queries and 3 keys"):
        relational_distillation_loss(rows, fewer, rows, fewer, scale=1.0, teacher_scale=1.0, leave_out_own=True)


SHARES = [((4, 3), (2, 3)), ((7, 0), (0, 5)), ((5, 2), (5, 0))]


def run_rank(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = []
    for query_counts, key_counts in SHARES:
        for leave_out_own in (False, True):
            counts = (query_counts, query_counts if leave_out_own else key_counts)
            parts = [
                vectors.detach().split(list(count))[rank]
                for vectors, count in zip(inputs(leave_out_own), (*counts, *counts), strict=True)
            ]
            queries = parts[0].requires_grad_()
            keys = queries if leave_out_own else parts[1].requires_grad_()
            loss = relational_distillation_loss(
                queries, keys, *parts[2:], scale=3.0, teacher_scale=4.0, leave_out_own=leave_out_own, distributed=True
            )
            loss.backward()
            found.append((loss.item(), queries.grad / 2, keys.grad / 2))  # a mean over ranks follows
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_loss_and_the_gradients_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(run_rank, (port, str(tmp_path)), 2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    cases = [leave_out_own for _ in SHARES for leave_out_own in (False, True)]
    for leave_out_own, *parts in zip(cases, *ranks, strict=True):
        vectors = inputs(leave_out_own)
        loss = relational_distillation_loss(*vectors, scale=3.0, teacher_scale=4.0, leave_out_own=leave_out_own)
        loss.backward()
        assert [part[0] for part in parts] == pytest.approx([loss.item()] * 2, rel=1e-12)
        for number in (0, 1):
            joined = torch.cat([part[number + 1] for part in parts])
            # Float64, added up in another order.
            torch.testing.assert_close(joined, vectors[number].grad, rtol=1e-10, atol=1e-14)
