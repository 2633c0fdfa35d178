"""Measurements on this machine that the model in `scaling_model.py` is checked against."""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from measure import measure
from scaling_model import DIM, DOUBLE, FLOAT, GIB, loss_bytes, loss_operations
from sides import run_side
from workloads import draw_embeddings

from modeling_eclip import contrastive_loss

__all__ = ["print_checks"]

_CPU_TILE = 1024
_RANKS, _LINK_BATCH = 4, 16384


def print_checks() -> None:
    """Print measured beside predicted: time and memory of the loss, the second pass, bytes over links."""
    _check_loss()
    _check_second_pass()
    _check_links()


def _check_loss() -> None:
    peak = _matrix_product_rate()
    print(f"\nA product of matrices of 4,096 rows in float32 runs at {peak / 1e9:.0f} GFLOP/s on this machine.\n")
    print("| B | loss | 8 B^2 d operations at | share of that | memory | by the model |")
    print("|--:|--:|--:|--:|--:|--:|")
    for batch_size in (2048, 4096, 8192, 16384, 32768):
        measured = _run("loss", {"batch_size": batch_size, "dim": DIM})
        rate = loss_operations(batch_size, batch_size) / measured["seconds"]
        predicted = loss_bytes(batch_size, batch_size, _CPU_TILE)
        print(
            f"| {batch_size:,} | {measured['seconds']:.2f} s | {rate / 1e9:.0f} GFLOP/s | {rate / peak:.0%} "
            f"| {measured['peak_bytes'] / GIB:.3f} GiB | {predicted / GIB:.3f} GiB |",
            flush=True,
        )


def _matrix_product_rate() -> float:
    left, right = torch.randn(2, 4096, 4096)
    left @ right
    return 2 * 4096**3 / measure(lambda: left @ right)[1]


def _check_second_pass() -> None:
    streams = {"batch_size": 512, "text_stream_size": 128, "image_stream_size": 32}
    seconds = {share: _run("step", streams | {"keep_graphs": share})["seconds"] for share in (0.0, 0.5, 1.0)}
    print("\n| graphs kept | step | against all kept | by the model |\n|--:|--:|--:|--:|")
    for share, taken in seconds.items():
        print(f"| {share:.0%} | {taken:.2f} s | {taken / seconds[1.0]:.2f} | {(4 - share) / 3:.2f} |")


def _check_links() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_count_links, args=(folder,), nprocs=_RANKS)
        counted = int(Path(folder, "received").read_text())
    predicted = (_RANKS - 1) / _RANKS * _LINK_BATCH * (2 * DIM * FLOAT + 5 * DOUBLE)
    print(
        f"\nThe loss of {_LINK_BATCH:,} offers on {_RANKS} ranks receives {counted / 2**20:.2f} MiB per rank; by the "
        f"model {predicted / 2**20:.2f} MiB."
    )


def _count_links(rank: int, folder: str) -> None:
    """Add up what a rank receives in a ring: (W - 1) / W of what it gathers or scatters, twice that of a reduction."""
    received = 0.0

    def counted(collective: Any, place: int, passes: int, *tensors: torch.Tensor, **kwargs: Any) -> Any:
        nonlocal received
        received += passes * (_RANKS - 1) / _RANKS * tensors[place].nbytes
        return collective(*tensors, **kwargs)

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=_RANKS)
    for name, place, passes in (
        ("all_gather_into_tensor", 0, 1),
        ("all_reduce", 0, 2),
        ("reduce_scatter_tensor", 1, 1),
    ):
        setattr(dist, name, partial(counted, getattr(dist, name), place, passes))
    text_embeds, image_embeds = draw_embeddings(_LINK_BATCH, DIM)
    own = slice(rank * _LINK_BATCH // _RANKS, (rank + 1) * _LINK_BATCH // _RANKS)
    contrastive_loss(text_embeds[own], image_embeds[own], torch.tensor(3.0), distributed=True).backward()
    if rank == 0:
        Path(folder, "received").write_text(str(round(received)))
    dist.destroy_process_group()


def _run(function: str, arguments: dict[str, Any]) -> dict[str, float]:
    return run_side(sys.executable, "eclip_side.py", function, arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    print_checks()
