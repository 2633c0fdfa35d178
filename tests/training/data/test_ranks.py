"""Messages between ranks go over the CPUs, whatever tensors go over."""

import torch.distributed as dist
import torch.multiprocessing as mp

from training.data.ranks import gather_objects


def run_rank(rank, folder):
    # "fake" stands for NCCL: a group whose collectives move nothing that is on a CPU.
    import torch.testing._internal.distributed.fake_pg  # noqa: F401

    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("fake", store=store, rank=rank, world_size=2)
    for _ in range(2):  # the group is made once
        assert gather_objects({"rank": rank, "rows": ["a"] * rank}) == [
            {"rank": 0, "rows": []},
            {"rank": 1, "rows": ["a"]},
        ]
    assert dist.get_backend() == "fake"
    dist.destroy_process_group()


def test_objects_go_over_gloo(tmp_path):
    mp.spawn(run_rank, (str(tmp_path),), nprocs=2)


def test_one_process_hears_itself():
    message = {"rows": [1]}
    assert gather_objects(message)[0] is message
