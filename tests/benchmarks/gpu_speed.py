"""Sections of `gpu_check.py` that measure: the card's rates, the loss, whole training steps, where their time goes."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from gpu_subject import GIB, Bench, build_model, draw_batch, draw_embeddings, model_operations

from modeling_eclip import MultiStreamAccumulation, contrastive_loss, dense_contrastive_loss
from training.arguments.train import TrainArguments
from training.data.inputs import finish_pixels, raw_inputs
from training.engine.compile import compile_towers
from training.engine.step import TrainingStep
from training.engine.tower_products import allow_tf32

__all__ = ["TARGET_BYTES", "TARGET_MFU", "measure_card", "measure_loss", "measure_steps", "profile_step"]

TARGET_MFU, TARGET_BYTES = 0.45, 40e9
_TARGET_TOWER = "ViT-B/16"
# The first word of these that a kernel's name holds tells its kind.
_KINDS = {
    "matrix products": ("gemm", "cutlass", "nvjet", "xmma", "cublas", "aten::mm", "addmm", "bmm"),
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "layer norm": ("layer_norm",),
    "gelu": ("gelu",),
    "copies of memory": ("memcpy", "memset"),
    "sums": ("reduce", "aten::sum"),
    "convolution": ("conv", "winograd"),
    "copies and casts": ("copy",),
    "elementwise": ("elementwise", "vectorized"),
}


def measure_card(bench: Bench) -> dict[str, Any]:
    """Measure which rates the card reaches: products, copies on it and to it."""
    name = torch.cuda.get_device_name() if bench.is_gpu else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    side = bench.sizes.product
    for label, dtype in (("bf16", torch.bfloat16), ("TF32", torch.float32), ("float32", torch.float32)):
        allow_tf32(label == "TF32")
        left, right = (torch.randn(side, side).to(bench.device, dtype) for _ in range(2))
        seconds = bench.seconds(lambda left=left, right=right: left @ right, 5)
        found[f"{label} TFLOP/s"] = _three_digits(2 * side**3 / seconds / 1e12)
    allow_tf32(False)
    source = torch.zeros(bench.sizes.copied, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source), 5)
    found["copy TB/s"] = _three_digits(2 * bench.sizes.copied / seconds / 1e12)
    host = torch.zeros(bench.sizes.copied, dtype=torch.uint8)
    host = host.pin_memory() if bench.is_gpu else host
    seconds = bench.seconds(lambda: target.copy_(host, non_blocking=True), 3)
    found["host to device GB/s"] = _three_digits(bench.sizes.copied / seconds / 1e9)
    print("card:", found, flush=True)
    return found


def _three_digits(number: float) -> float:
    return float(f"{number:.3g}")


def measure_loss(bench: Bench) -> list[dict[str, Any]]:
    """Measure time, memory and waits of the loss alone, beside the dense loss and plain CLIP's."""
    print(f"loss: forward and backward, float32 embeddings of {bench.sizes.dim}")
    found = []
    cold, hot = (torch.full((), scale, device=bench.device).log().requires_grad_() for scale in (14.3, 100.0))
    ways: dict[str, Callable[..., torch.Tensor]] = {
        "tiled, scale 14": lambda text, image, ids: contrastive_loss(text, image, cold, ids),
        "tiled, scale 100": lambda text, image, ids: contrastive_loss(text, image, hot, ids),
        "tiled, masked, scale 14": lambda text, image, ids: contrastive_loss(text, image, cold, ids, mates="masked"),
        "dense": lambda text, image, ids: dense_contrastive_loss(text, image, cold, ids),
        "plain CLIP, logits in bf16": _plain_clip,
    }
    for size in bench.sizes.loss_rows:
        at_this_size = dict(ways)
        for tile in bench.sizes.loss_tiles if size == bench.sizes.loss_rows[1] else ():
            at_this_size[f"tiled, scale 14, tiles of {tile}"] = lambda text, image, ids, tile=tile: contrastive_loss(
                text, image, cold, ids, tile_size=tile
            )
        for label, function in at_this_size.items():
            if bench.left() < 15:
                print("  no time left")
                return found
            row = {"B": size, "as": label} | _measure_or_run_out(bench, partial(_time_loss, bench, size, function))
            print("  ", row, flush=True)
            found.append(row)
    return found


def _time_loss(bench: Bench, size: int, function: Callable[..., torch.Tensor]) -> dict[str, Any]:
    text, image, catalogs = draw_embeddings(size, bench.sizes.dim, bench.device)
    leaves = [text.requires_grad_(), image.requires_grad_()]
    before = bench.allocated()

    def once() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves, catalogs).backward()

    seconds = bench.seconds(once, 2)
    with bench.waits() as waits:
        once()
    return {
        "ms": _three_digits(1e3 * seconds),
        "GiB": bench.peak_gib(above=before),
        "TFLOP/s": _three_digits(8 * size**2 * bench.sizes.dim / seconds / 1e12),
        "waits": waits.total(),
    }


def _plain_clip(text: torch.Tensor, image: torch.Tensor, catalogs: torch.Tensor) -> torch.Tensor:
    """Compute what most code does: all logits under autocast, two cross entropies."""
    with torch.autocast(text.device.type, dtype=torch.bfloat16):
        logits = text @ image.T * 14.3
    labels = torch.arange(len(text), device=text.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits.float(), labels) + cross_entropy(logits.T.float(), labels)) / 2


def _measure_or_run_out(bench: Bench, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a function measures, or that memory ended."""
    bench.clean()
    try:
        return function()
    except torch.OutOfMemoryError:
        return {"out of memory": True, "GiB": bench.peak_gib()}


def measure_steps(bench: Bench) -> list[dict[str, Any]]:
    """Measure whole training steps in bf16: of a batch on the CPU, copies and AdamW included."""
    print("steps: in bf16, batches on the CPU with pixels as bytes; titles of 18 tokens")
    found: list[dict[str, Any]] = []
    # Compiled, the tower that the target is set for comes first, since time may be up for the other.
    towers = list(bench.sizes.patches)
    for tower, compiled in [(tower, False) for tower in towers] + [(tower, True) for tower in reversed(towers)]:
        if bench.left() < (100 if compiled else 30):
            print(f"  {tower}, compiled {compiled}: no time left")
            continue
        bench.clean()
        steps, config = _training_step(bench, tower, compiled)
        rate = 0.0
        for size in bench.sizes.batch_sizes:
            # The target of memory is of a step that keeps nothing: what "auto" keeps, it keeps since there is room.
            ways = ["auto", "0"] if size == bench.sizes.batch_sizes[-1] and tower == _TARGET_TOWER else ["auto"]
            for keep_graphs in ways:
                row = {"tower": tower, "compiled": compiled, "B": size, "keep_graphs": keep_graphs}
                if bench.left() < (2.5 * size / rate if rate else 0) + 5:
                    print(f"  {row}: no time left")
                    continue
                row |= _measure_or_run_out(bench, partial(_time_step, bench, steps[keep_graphs], config, size))
                rate = row.get("samples/s", rate)
                print("  ", row, flush=True)
                found.append(row)
        del steps
        torch.compiler.reset()
    _print_targets(bench, found)
    return found


def _training_step(bench: Bench, tower: str, compiled: bool) -> tuple[dict[str, TrainingStep], Any]:
    """Return training steps over one model, by `keep_graphs`, with every form compiled, and the configuration."""
    sizes = bench.sizes
    model = build_model(sizes.patches[tower], sizes.side, sizes.dim, *sizes.shapes, bench.device)
    if compiled:
        compile_towers(model, "eager" if bench.is_dry else "inductor")
    accelerator = Accelerator(mixed_precision="bf16", cpu=not bench.is_gpu)
    steps = {
        keep_graphs: TrainingStep(
            model,
            TrainArguments(
                output_dir=str(bench.folder),
                learning_rate=1e-5,
                image_stream_size=sizes.image_stream,
                text_stream_size=sizes.text_stream,
                keep_graphs=keep_graphs,
            ),
            accelerator,
            total_samples=10**9,
        )
        for keep_graphs in ("auto", "0")
    }
    started = time.perf_counter()
    batch = draw_batch(4 * sizes.image_stream, sizes.side)
    for share in (0.0, 0.5, 1.0):
        accumulate = MultiStreamAccumulation(
            steps["auto"].model,
            image_stream_size=sizes.image_stream,
            text_stream_size=sizes.text_stream,
            keep_graphs=share,
            prepare=finish_pixels,
        )
        accumulate(raw_inputs(batch), batch["catalog_ids"])
        model.zero_grad()
    print(f"  {tower}, compiled {compiled}: the first passes took {time.perf_counter() - started:.1f} s", flush=True)
    return steps, model.config


def _time_step(bench: Bench, step: TrainingStep, config: Any, size: int) -> dict[str, Any]:
    batch = draw_batch(size, bench.sizes.side)
    is_small = size == bench.sizes.batch_sizes[0]
    values: list[dict[str, float] | None] = []
    seconds = bench.seconds(lambda: values.append(step(batch, 0)), 3 if is_small else 1, warm_up=is_small)
    bench.demand(None not in values, f"steps, B = {size}: a step's loss or gradient was not a number")
    lengths = batch["attention_mask"].sum(1)
    forward = model_operations(config, lengths, bench.sizes.text_stream)
    kept = step.accumulate.num_kept / step.accumulate.num_streams
    row = {
        "step s": _three_digits(seconds),
        "samples/s": _three_digits(size / seconds),
        "MFU": _three_digits(3 * forward / seconds / bench.peak),
        "HFU": _three_digits((4 - kept) * forward / seconds / bench.peak),
        "streams": step.accumulate.num_streams,
        "kept": step.accumulate.num_kept,
        "GiB": bench.peak_gib(),
        "GiB of pixels on the host": round(batch["pixel_values"].nbytes / GIB, 2),
    }
    if is_small:
        with bench.waits() as waits:
            step(batch, 0)
        row |= {"waits": waits.total(), "waits in": dict(waits.most_common(6))}
    return row


def _print_targets(bench: Bench, found: list[dict[str, Any]]) -> None:
    """Print how far the two targets are reached."""
    mfu = [row["MFU"] for row in found if row["tower"] == _TARGET_TOWER and row["compiled"] and "MFU" in row]
    largest = bench.sizes.batch_sizes[-1]
    memory = [
        row["GiB"] * GIB / 1e9
        for row in found
        if row["B"] == largest and row["keep_graphs"] == "0" and "MFU" in row and row["GiB"] is not None
    ]
    is_measured = bench.is_gpu and not bench.is_dry
    told = {
        f"MFU of {_TARGET_TOWER}, compiled (target {TARGET_MFU:.0%})": f"{max(mfu):.1%}" if mfu else None,
        f"B = {largest:,} with no graph kept (target {TARGET_BYTES / 1e9:.0f} GB)": (
            f"{max(memory):.1f} GB" if memory else None
        ),
    }
    for what, value in told.items():
        print(f"  {what}: {(value if is_measured else None) or 'not measured'}", flush=True)


def profile_step(bench: Bench) -> dict[str, Any]:
    """Profile a step in which all is encoded twice: the kinds of kernels, and how busy the GPU is."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    steps, _ = _training_step(bench, _TARGET_TOWER, compiled=False)
    batch = draw_batch(bench.sizes.profiled, bench.sizes.side)
    steps["0"](batch, 0)
    on_gpu = ProfilerActivity.CUDA in supported_activities()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as result:
        steps["0"](batch, 0)
    wall = time.perf_counter() - started
    kinds: Counter[str] = Counter()
    number = 0
    for event in result.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, words in _KINDS.items() if any(word in name for word in words)), "other")
        kinds[kind] += microseconds / 1e6
        number += event.count
    busy = sum(kinds.values())
    print(f"profile: {bench.sizes.profiled} offers, {wall:.3f} s, busy {busy:.3f} s, {number} kernels", flush=True)
    for kind, seconds in kinds.most_common():
        print(f"  {kind:18s} {1e3 * seconds:8.1f} ms {seconds / busy:6.1%}", flush=True)
    bench.demand(busy > 0, "profile: the profiler saw no kernel")
    return {"wall s": wall, "busy s": busy, "kernels": number, **kinds}
