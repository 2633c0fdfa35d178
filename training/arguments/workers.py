"""How many processes may decode images beside a rank: its part of the cores that this machine gives to the run."""

from accelerate.utils import get_int_from_env
from joblib import cpu_count

__all__ = ["workers_per_rank"]

# Ranks of this machine, as torchrun and accelerate, Intel's MPI, Open MPI and MVAPICH tell them.
_LOCAL_RANKS = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# At some 600 photographs a second each, beyond what one GPU takes; every worker is a process with its own memory.
_MOST = 16


def workers_per_rank() -> int:
    """Return a rank's part of the cores but one, which the rank itself needs; at most 16, and 0 where none is left.

    Cores that a scheduler or a container withholds do not count.
    """
    return max(0, min(_MOST, cpu_count() // get_int_from_env(_LOCAL_RANKS, 1) - 1))
