"""The model on paper of `training/SCALING.md`: prints its tables, and with `--measure` its checks on this machine.

One training step of B offers on W GPUs, by multi-stream accumulation under `DistributedDataParallel`: each rank
encodes b = B / W offers in streams, holds its own b titles' embeddings, gathers the B images', and sweeps its b x B
similarities in tiles.
"""

import argparse
from dataclasses import dataclass

__all__ = ["GPU", "TOWERS", "Gpu", "Step", "Tower", "loss_bytes", "loss_operations", "predict"]

DIM = 512
GIB, KIB = 2**30, 2**10
FLOAT, DOUBLE = 4, 8


@dataclass(frozen=True)
class Tower:
    """A transformer tower.

    Args:
        width: Width of the residual stream; the feed-forward layers are four times as wide.
        layers: Number of layers.
        tokens: Tokens per offer.
        embeddings: Parameters beside the layers.
    """

    width: int
    layers: int
    tokens: int
    embeddings: int

    @property
    def parameters(self) -> int:
        """12 width^2 per layer, and the embeddings."""
        return 12 * self.width**2 * self.layers + self.embeddings

    @property
    def forward_operations(self) -> int:
        """Per offer: two operations per weight and token, and two products of tokens with tokens per layer."""
        per_token = 24 * self.width**2 + 4 * self.tokens * self.width
        return per_token * self.tokens * self.layers

    @property
    def graph_bytes(self) -> int:
        """Per offer: 49 bytes per token, width and layer.

        Counted with `GraphMeter` on a CPU, under autocast to bfloat16: 41 for ViT, 49 for CLIP. The 34 of Korthikanti
        et al. (2022, without scores) lack what autocast adds, a float32 residual stream and casts beside their
        sources.
        """
        return 49 * self.tokens * self.width * self.layers


@dataclass(frozen=True)
class Gpu:
    """An accelerator and its links; rates per second, for one GPU and direction.

    Args:
        tensor_operations: Peak in bfloat16 with tensor cores.
        tower_utilisation: Share of that peak that towers reach.
        float_operations: Peak in float32 without tensor cores, in which the loss is computed.
        loss_utilisation: Share of that peak that the loss's products reach.
        memory: Bytes.
        memory_bandwidth: Bytes per second.
        node_bandwidth: Bytes per second within a node of 8, as collectives reach it.
        network_bandwidth: Bytes per second between nodes, likewise.
        host_bandwidth: Bytes per second from the host's pinned memory.
        wait_seconds: What the GPU idles where the host waits for a number of it before it launches more.
    """

    tensor_operations: float = 989e12
    tower_utilisation: float = 0.45
    float_operations: float = 67e12
    loss_utilisation: float = 0.6
    memory: float = 80e9
    memory_bandwidth: float = 3.35e12
    node_bandwidth: float = 350e9
    network_bandwidth: float = 40e9
    host_bandwidth: float = 25e9
    wait_seconds: float = 50e-6


@dataclass(frozen=True)
class Step:
    """What one step costs a rank.

    Args:
        kept: Share of the streams whose graphs are kept.
        tower_seconds: Encoding and its backward.
        loss_seconds: Both sweeps.
        link_seconds: Collectives; none is taken to overlap with anything.
        host_seconds: Copies from the host, and waits of the host.
        link_bytes: Bytes that the rank receives.
        loss_bytes: Memory of the loss, gathered embeddings included.
        dense_bytes: What one b x B matrix in float32 would take; a dense loss holds four or more.
        seconds: All of it.
        samples_per_second: Of all ranks together.
    """

    kept: float
    tower_seconds: float
    loss_seconds: float
    link_seconds: float
    host_seconds: float
    link_bytes: float
    loss_bytes: float
    dense_bytes: float
    seconds: float
    samples_per_second: float


# ViT-B/16 at 224 pixels, and CLIP's text tower with titles of 20 tokens, streams being sorted by length and trimmed.
TOWERS = (
    Tower(width=768, layers=12, tokens=197, embeddings=(197 + 3 * 16 * 16) * 768),
    Tower(width=512, layers=12, tokens=20, embeddings=(49408 + 77) * 512),
)
GPU = Gpu()
# Of a rank's streams, those of images, and those of titles that are so many times as large.
TITLES_PER_IMAGE = 4
# Weights, gradients and AdamW's two moments in float32; a stream of 256 offers besides; a fifth is left free.
_STATE_BYTES, _STREAM, _USABLE = 16, 256, 0.8
_TILE = 8192
# Pixels of an image as they are copied, in 8 bits; copied again with a stream that is encoded again.
_IMAGE_BYTES = 3 * 224 * 224
# Counted on a fake device: 12 waits of the host in a step of one stream, 38 in one of eight.
_WAITS, _WAITS_PER_STREAM = 8, 3.75


def loss_operations(own_rows: int, batch_size: int, dim: int = DIM) -> int:
    """Return operations of the loss on one rank: four products of `own_rows x dim x batch_size`, two operations each.

    Similarities in both sweeps, and the gradients of both modalities in the second.
    """
    return 8 * own_rows * batch_size * dim


def loss_bytes(own_rows: int, batch_size: int, tile: int, dim: int = DIM) -> int:
    """Return memory of the loss on one rank, beside its own embeddings.

    Gradients of own titles and of all images; all images' embeddings, where they are not own; ten float64 numbers per
    offer; two tiles.
    """
    gathered = batch_size * dim * FLOAT if own_rows < batch_size else 0
    gradients = (own_rows + batch_size) * dim * FLOAT
    return gathered + gradients + 10 * batch_size * DOUBLE + 2 * tile**2 * FLOAT


def predict(batch_size: int, num_gpus: int, gpu: Gpu = GPU, towers: tuple[Tower, ...] = TOWERS) -> Step:
    """Return what a step of `batch_size` offers on `num_gpus` GPUs costs.

    Args:
        batch_size: Offers of all ranks together.
        num_gpus: Ranks, in nodes of 8.
        gpu: The accelerator.
        towers: The towers.
    """
    own_rows = batch_size // num_gpus
    parameters = sum(tower.parameters for tower in towers)
    graph = sum(tower.graph_bytes for tower in towers)
    loss_memory = loss_bytes(own_rows, batch_size, _TILE)
    # Graphs take the memory that the batch leaves; streams whose graphs are not kept need room for one graph.
    room = _USABLE * gpu.memory - _STATE_BYTES * parameters - loss_memory
    fits = room / graph
    kept = 1.0 if fits >= own_rows else max(0.0, (fits - _STREAM) / own_rows)

    forward = sum(tower.forward_operations for tower in towers) * own_rows
    tower_seconds = (4 - kept) * forward / (gpu.tensor_operations * gpu.tower_utilisation)
    # Beside the products, a tile is read and written about ten times in both sweeps together.
    loss_seconds = (
        loss_operations(own_rows, batch_size) / (gpu.float_operations * gpu.loss_utilisation)
        + 10 * own_rows * batch_size * FLOAT / gpu.memory_bandwidth
    )
    share = (num_gpus - 1) / num_gpus
    link_bytes = share * (
        batch_size * DIM * FLOAT  # all images' embeddings are gathered
        + batch_size * DIM * FLOAT  # their gradients are added up and handed back
        + 5 * batch_size * DOUBLE  # columns' log-sum-exp: two all-reduces; own similarities are gathered
        + 2 * parameters * FLOAT  # gradients are all-reduced once
    )
    link_seconds = link_bytes / (gpu.node_bandwidth if num_gpus <= 8 else gpu.network_bandwidth)
    num_streams = max(1.0, own_rows / _STREAM * (1 + 1 / TITLES_PER_IMAGE))
    host_seconds = (2 - kept) * own_rows * _IMAGE_BYTES / gpu.host_bandwidth + (
        _WAITS + _WAITS_PER_STREAM * num_streams
    ) * gpu.wait_seconds
    seconds = tower_seconds + loss_seconds + link_seconds + host_seconds
    return Step(
        kept=kept,
        tower_seconds=tower_seconds,
        loss_seconds=loss_seconds,
        link_seconds=link_seconds,
        host_seconds=host_seconds,
        link_bytes=link_bytes,
        loss_bytes=loss_memory,
        dense_bytes=own_rows * batch_size * FLOAT,
        seconds=seconds,
        samples_per_second=batch_size / seconds,
    )


def print_predictions() -> None:
    """Print the table of the model."""
    print(
        "| B | GPUs | offers each | graphs kept | towers | loss | links | host | step | samples/s | received "
        "| loss memory |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for batch_size in (32, 64, 128, 256):
        for num_gpus in (8, 64, 512):
            step = predict(batch_size * KIB, num_gpus)
            cells = [
                f"{batch_size}k",
                f"{num_gpus}",
                f"{batch_size * KIB // num_gpus:,}",
                f"{step.kept:.0%}",
                f"{step.tower_seconds:.3g} s",
                f"{1000 * step.loss_seconds:.3g} ms",
                f"{1000 * step.link_seconds:.3g} ms",
                f"{1000 * step.host_seconds:.3g} ms",
                f"{step.seconds:.3g} s",
                f"{float(f'{step.samples_per_second:.3g}'):,.0f}",
                f"{step.link_bytes / GIB:.2f} GiB",
                f"{step.loss_bytes / GIB:.2f} GiB",
            ]
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Print the model's tables; with `--measure` compare it with measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="compare the model with measurements here (minutes)")
    arguments = parser.parse_args()
    print_predictions()
    if arguments.measure:
        from scaling_checks import print_checks

        print_checks()


if __name__ == "__main__":
    main()
