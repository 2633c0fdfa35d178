"""Sections of `gpu_check.py` that tell whether the device computes what it should."""

import itertools
import math
from typing import Any, get_args

import torch
from gpu_subject import Bench, build_model, draw_batch, draw_embeddings

from modeling_eclip import EClipModel, MultiStreamAccumulation, contrastive_loss, dense_contrastive_loss
from modeling_eclip.losses.contrastive import CatalogMates
from training.data.inputs import finish_pixels, raw_inputs
from training.engine.compile import compile_towers
from training.engine.tower_products import allow_tf32

__all__ = ["check_gradients", "check_streams"]

# A logit is rounded in proportion to the scale, and a softmax is wrong by as much; gradients of bfloat16 embeddings
# have 8 bits of mantissa. That TF32 is on for towers changes nothing.
_LOSS_LIMIT_PER_SCALE, _BFLOAT16_LIMIT = 5e-7, 2e-2
_LOSS_WAYS = ("float32", "float32, odd tile", "float32, TF32 on", "bfloat16")
# Sums of float32 in another order; and of products that are in bfloat16.
_STREAM_LIMITS = {"no": 1e-5, "bf16": 2e-2}


def check_gradients(bench: Bench) -> list[dict[str, Any]]:
    """Compare loss and gradients with the dense loss of the same embeddings in float64 on the same device."""
    print("gradients: relative error against the dense loss in float64: loss; titles; images; log of the scale")
    found = []
    text, image, catalogs = draw_embeddings(bench.sizes.gradient_rows, bench.sizes.dim, bench.device)
    for scale, mates in itertools.product((14.3, 100.0), get_args(CatalogMates)):
        for label in _LOSS_WAYS:
            limit = _BFLOAT16_LIMIT if label == "bfloat16" else _LOSS_LIMIT_PER_SCALE * scale
            dtype = torch.bfloat16 if label == "bfloat16" else torch.float32
            embeds = text.to(dtype), image.to(dtype)
            log_scale = torch.full((), math.log(scale), device=bench.device)
            wanted = _with_gradients(
                dense_contrastive_loss, [each.double() for each in (*embeds, log_scale)], catalogs, mates=mates
            )
            allow_tf32("TF32" in label)
            tile_size = bench.sizes.odd_tile if "tile" in label else None
            got = _with_gradients(contrastive_loss, [*embeds, log_scale], catalogs, mates=mates, tile_size=tile_size)
            allow_tf32(False)
            errors = [float((g.double() - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)]
            told = "  ".join(f"{error:.1e}" for error in errors)
            mark = bench.demand(max(errors) < limit, f"gradients, {label}, {mates}, scale {scale}: {told}")
            print(f"  scale {scale:5.1f} {mates:9s} {label:18s} {told}{mark}", flush=True)
            found.append({"scale": scale, "mates": mates, "as": label, "errors": errors})
    return found


def _with_gradients(
    function: Any, values: list[torch.Tensor], catalogs: torch.Tensor, **settings: Any
) -> list[torch.Tensor]:
    leaves = [value.detach().clone().requires_grad_() for value in values]
    loss = function(*leaves, catalogs, **settings)
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def check_streams(bench: Bench) -> list[dict[str, Any]]:
    """Compare a step's gradients, and where it leaves the generators, over the ways to cut it and to keep graphs."""
    print("streams: largest difference of a parameter's gradient, over the norm of all, from that of every graph kept")
    found = []
    for dropout, precision, compiled in (
        (0.1, "no", False),
        (0.0, "no", False),
        (0.1, "bf16", False),
        (0.1, "bf16", True),
    ):
        if bench.left() < 20:
            print("  no time left")
            break
        found += _compare_ways(bench, dropout, precision, compiled)
    return found


def _compare_ways(bench: Bench, dropout: float, precision: str, compiled: bool) -> list[dict[str, Any]]:
    sizes = bench.sizes
    model = build_model(
        16, sizes.small_side, sizes.dim, sizes.small_shape, sizes.small_shape, bench.device, dropout=dropout
    )
    if compiled:
        compile_towers(model, "eager" if bench.is_dry else "inductor")
    quarter = {"stream_size": sizes.small_offers // 4}
    ways: dict[str, dict[str, Any]] = {
        "kept": quarter | {"keep_graphs": 1.0},
        "kept again": quarter | {"keep_graphs": 1.0},
        "encoded again": quarter | {"keep_graphs": 0.0},
        "half kept": quarter | {"keep_graphs": 0.5},
        "auto": quarter,
    }
    if not dropout:  # which draws by streams
        ways["one forward pass"] = {}
    found = []
    wanted, state = _step(bench, model, precision, ways["kept"])
    for way, settings in list(ways.items())[1:]:
        gradients, after = _step(bench, model, precision, settings)
        norm = math.sqrt(sum(float(gradient.double().norm()) ** 2 for gradient in wanted.values()))
        error = max(float((gradients[name].double() - wanted[name].double()).norm()) for name in wanted) / norm
        same_state = torch.equal(after, state)
        holds = error < _STREAM_LIMITS[precision] and (same_state or way == "one forward pass")
        told = f"dropout {dropout} {precision:4s} {'compiled' if compiled else 'eager':8s} {way:16s} {error:.1e}"
        told += f"  generator as after the first: {same_state}"
        print(f"  {told}{bench.demand(holds, f'streams, {told}')}", flush=True)
        found.append({"dropout": dropout, "precision": precision, "compiled": compiled, "way": way, "error": error})
    if compiled:
        torch.compiler.reset()
    return found


def _step(
    bench: Bench, model: EClipModel, precision: str, settings: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the gradients of a step, and the state of the device's generator after it."""
    batch = draw_batch(bench.sizes.small_offers, bench.sizes.small_side)
    model.zero_grad()
    torch.manual_seed(7)
    accumulate = MultiStreamAccumulation(model, prepare=finish_pixels, **settings)
    with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        accumulate(raw_inputs(batch), batch["catalog_ids"])
    state = torch.cuda.get_rng_state() if bench.is_gpu else torch.get_rng_state()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, state.clone()
