"""How long attention with contrast takes: our kernel beside what PyTorch offers, in turns in one process.

    python -m benchmarks.attention            on a GPU: SD-1.5's swapped layers, rows added to results/attention.jsonl
    TRITON_INTERPRET=1 python -m benchmarks.attention --output FILE    without one: that it runs, at a small size

Every side is first compared with float64; ours must be as accurate as the materialised map in the same dtype, or
nothing is timed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.record import RESULTS, Row, append, surroundings
from benchmarks.shapes import INTERPRETED, SWAPPED_LAYERS, AttentionShape
from kernels import AttentionResult
from kernels.cost import H100, attention_cost, floor_seconds
from kernels.cross_image_attention import triton as triton_attention

CONTRAST = 1.67
CLASSES = 2


@dataclass(frozen=True)
class Side:
    """One way to compute attention. ``contrast`` 1 marks those that cannot do more than plain attention."""

    name: str
    call: Callable[[], Tensor]
    contrast: float
    dtype: torch.dtype


def materialised(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """The whole map, every step in the dtype of q."""
    p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    if contrast != 1:
        p = (contrast * (p - 1 / k.shape[2]) + 1 / k.shape[2]).clamp_(0, 1)
    return p @ v


def flex_twice(flex: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """Exact with FlexAttention: the first call gives the log-sum-exp, the second takes log p' as its scores."""
    sums = flex(q, k, v, return_aux=AuxRequest(lse=True))[1].lse  # [B, H, N]
    assert sums is not None
    offset = (contrast - 1) / k.shape[2]

    def log_contrasted(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.log(torch.clamp(contrast * torch.exp(score - sums[b, h, i]) - offset, 0.0, 1.0))

    out, kept = flex(q, k, v, score_mod=log_contrasted, return_aux=AuxRequest(lse=True))
    assert kept.lse is not None
    return (out.float() * torch.exp(kept.lse)[..., None]).to(q.dtype)


def sides(q: Tensor, k: Tensor, v: Tensor, labels: Tensor) -> list[Side]:
    """All ways at one shape; q, k, v [B, H, N, D] in a half type."""
    half = q.dtype
    wide_q, wide_k, wide_v = q.float(), k.float(), v.float()
    flex = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention
    pair = (labels, labels)

    def ours(contrast: float, *, labelled: bool = False, within_class: bool = False) -> Tensor:
        if not labelled:
            result = triton_attention.launch(q, k, v, contrast).result
        else:
            result = triton_attention.launch(q, k, v, contrast, pair, CLASSES, within_class=within_class).result
        return result.out if isinstance(result, AttentionResult) else result

    return [
        Side("ours", lambda: ours(CONTRAST), CONTRAST, half),
        Side("ours, with statistics", lambda: ours(CONTRAST, labelled=True), CONTRAST, half),
        Side("ours, without contrast", lambda: ours(1.0), 1.0, half),
        Side("materialised", lambda: materialised(q, k, v, CONTRAST), CONTRAST, half),
        Side("materialised float32", lambda: materialised(wide_q, wide_k, wide_v, CONTRAST), CONTRAST, torch.float32),
        Side("SDPA, without contrast", lambda: scaled_dot_product_attention(q, k, v), 1.0, half),
        Side("FlexAttention twice", lambda: flex_twice(flex, q, k, v, CONTRAST), CONTRAST, half),
    ]


def exact(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """float64, one image and head at a time: [B, H, N, D]."""
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            query, key, value = (t[b : b + 1, h : h + 1].double() for t in (q, k, v))
            out[b, h] = materialised(query, key, value, contrast)[0, 0]
    return out


def timed(call: Callable[[], Tensor], device: torch.device) -> tuple[float, float]:
    """Microseconds of one call on the device, and until it returned."""
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        taken = (time.perf_counter() - begin) * 1e6
        return taken, taken
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # The device waits while the host queues the call, so that no gap between launches is counted.
    torch.cuda._sleep(2_000_000)
    start.record()
    begin = time.perf_counter()
    call()
    host = (time.perf_counter() - begin) * 1e6
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3, host


def peak_extra_bytes(call: Callable[[], Tensor], device: torch.device) -> int | None:
    """Memory held at most by one call beyond what was held before it, its result included."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def compare(shape: AttentionShape, dtype: torch.dtype, device: torch.device, rounds: int) -> list[Row]:
    """One row for each side at one shape.

    Raises:
        AssertionError: our error is more than twice that of the materialised map in the same dtype, plus a rounding.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, shape.batch, shape.tokens, shape.heads, shape.width, generator=g).to(device, dtype)
    q, k, v = x.transpose(2, 3)  # [B, H, N, D] as it comes from the projections
    labels = torch.randint(CLASSES, (shape.batch, shape.tokens), generator=g).to(device)
    true = {contrast: exact(q, k, v, contrast) for contrast in (1.0, CONTRAST)}
    ways = sides(q, k, v, labels)
    errors = {way.name: float((way.call().double() - true[way.contrast]).abs().max()) for way in ways}
    rounding = torch.finfo(dtype).eps * float(true[CONTRAST].abs().max())
    for name in ("ours", "ours, with statistics"):
        assert errors[name] <= 2 * errors["materialised"] + rounding, f"{name} at {shape}: {errors}"
    peaks = {way.name: peak_extra_bytes(way.call, device) for way in ways}
    times: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            times[way.name].append(timed(way.call, device))
    launch = triton_attention.launch(q, k, v, CONTRAST)
    assert launch.visited is not None
    visited = float(launch.visited.float().mean()) / launch.tiles
    rows = []
    for way in ways:
        on_device, host = (torch.tensor(t, dtype=torch.float64) for t in zip(*times[way.name], strict=True))
        p20, p50, p80 = (float(on_device.quantile(x)) for x in (0.2, 0.5, 0.8))
        cost = attention_cost(
            shape.batch,
            shape.heads,
            shape.tokens,
            shape.tokens,
            shape.width,
            way.dtype.itemsize,
            contrast=way.contrast != 1,
        )
        rows.append(
            Row(
                what="attention",
                impl=way.name,
                shape=asdict(shape),
                dtype=str(way.dtype).removeprefix("torch."),
                p20=p20,
                p50=p50,
                p80=p80,
                host_p50=float(host.quantile(0.5)),
                rounds=rounds,
                peak_bytes=peaks[way.name],
                max_error=errors[way.name],
                floor=floor_seconds(cost, H100) * 1e6 if q.is_cuda and way.name.startswith("ours") else None,
                visited=visited if way.name == "ours" else None,
            )
        )
    return rows


def main() -> int:
    """Run the comparison; 0 when every row was written."""
    parser = argparse.ArgumentParser(description="Time attention with contrast, ours beside PyTorch's ways.")
    parser.add_argument("--output", type=Path, help="JSON lines are added here (default: benchmarks/results)")
    parser.add_argument("--rounds", type=int, default=100, help="turns of every side (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and arguments.output is None:
        print("no GPU: set TRITON_INTERPRET=1 and name a file with --output to see that it runs", file=sys.stderr)
        return 2
    file = RESULTS / "attention.jsonl" if arguments.output is None else arguments.output
    around = surroundings(device)
    print(f"{'shape':>16}  {'impl':<24}{'p50 us':>10}{'of floor':>10}{'extra MB':>10}{'max error':>11}")
    for shape in SWAPPED_LAYERS if device.type == "cuda" else INTERPRETED:
        for row in compare(shape, getattr(torch, arguments.dtype), device, arguments.rounds):
            append(file, row, around)
            of_floor = "" if row.floor is None else f"{row.p50 / row.floor:.2f}"
            extra = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
            name = "x".join(map(str, row.shape.values()))
            print(f"{name:>16}  {row.impl:<24}{row.p50:>10.1f}{of_floor:>10}{extra:>10}{row.max_error:>11.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
