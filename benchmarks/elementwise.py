"""How long group normalisation with SiLU and GEGLU take: ours beside PyTorch's, in turns in one process.

    python -m benchmarks.elementwise          on a GPU: SD-1.5's layers, rows added to results/elementwise.jsonl
    TRITON_INTERPRET=1 python -m benchmarks.elementwise --output FILE    without one: that it runs, at a small size

Every side is first compared with float64; ours must be as accurate as PyTorch in the same dtype, or nothing is timed.
A floor is the time that memory needs to move the tensors once; what lies in the second-level cache can beat it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.attention import peak_extra_bytes, timed
from benchmarks.record import RESULTS, Row, append, surroundings
from kernels import geglu, group_norm
from kernels.cost import H100, Cost, floor_seconds

EPS = 1e-5


@dataclass(frozen=True)
class NormShape:
    """One group normalisation: x [batch, channels, side, side]; channels_last is 0 or 1."""

    batch: int
    channels: int
    side: int
    channels_last: int
    groups: int = 32


@dataclass(frozen=True)
class GateShape:
    """One GEGLU: projected [batch, tokens, 2 · width]."""

    batch: int
    tokens: int
    width: int


# SD-1.5 at 512 x 512: the UNet's levels with and without the skip beside them, and the autoencoder's widest grids.
NORMS = tuple(
    NormShape(batch, channels, side, channels_last)
    for channels, side in ((320, 64), (960, 64), (640, 32), (1920, 32), (1280, 16), (2560, 16), (1280, 8))
    for channels_last in (0, 1)
    for batch in (1, 4, 8)
) + tuple(NormShape(1, *size) for size in ((128, 512, 0), (128, 512, 1), (512, 256, 0), (512, 256, 1)))
GATES = tuple(
    GateShape(batch, tokens, width)
    for tokens, width in ((4096, 1280), (1024, 2560), (256, 5120), (64, 5120))
    for batch in (1, 4, 8)
)

# Small enough for Triton's interpreter: shows that the benchmark runs, and times nothing worth knowing.
INTERPRETED_NORMS = (NormShape(1, 16, 8, 0, 4), NormShape(1, 16, 8, 1, 4))
INTERPRETED_GATES = (GateShape(1, 5, 40),)


@dataclass(frozen=True)
class Comparison:
    """One operation at one shape: every side by name, the float64 result, and what must be moved."""

    what: str
    shape: dict[str, int]
    sides: dict[str, Callable[[], Tensor]]
    exact: Tensor
    dtype: torch.dtype
    moved: int  # bytes


def normalised(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """As networks are written."""
    return F.silu(F.group_norm(x, groups, weight, bias, EPS))


def gated(projected: Tensor) -> Tensor:
    """As networks are written."""
    value, gate = projected.chunk(2, -1)
    return value * F.gelu(gate)


def norm_comparison(shape: NormShape, dtype: torch.dtype, device: torch.device) -> Comparison:
    """Group normalisation with SiLU."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape.batch, shape.channels, shape.side, shape.side, generator=g).to(device, dtype)
    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    weight, bias = torch.randn(2, shape.channels, generator=g).to(device, dtype)
    sides = {
        "ours": lambda: group_norm(x, shape.groups, weight, bias, eps=EPS, silu=True, impl="triton"),
        "ours, impl torch": lambda: group_norm(x, shape.groups, weight, bias, eps=EPS, silu=True, impl="torch"),
        "PyTorch": lambda: normalised(x, shape.groups, weight, bias),
    }
    if x.is_cuda:
        compiled = torch.compile(normalised, dynamic=False)
        sides["torch.compile"] = lambda: compiled(x, shape.groups, weight, bias)
    exact = normalised(x.double().contiguous(), shape.groups, weight.double(), bias.double())
    return Comparison("group_norm with SiLU", asdict(shape), sides, exact, dtype, 2 * x.nbytes)


def gate_comparison(shape: GateShape, dtype: torch.dtype, device: torch.device) -> Comparison:
    """GEGLU."""
    g = torch.Generator().manual_seed(0)
    projected = torch.randn(shape.batch, shape.tokens, 2 * shape.width, generator=g).to(device, dtype)
    sides = {
        "ours": lambda: geglu(projected, impl="triton"),
        "ours, impl torch": lambda: geglu(projected, impl="torch"),
        "PyTorch": lambda: gated(projected),
    }
    if projected.is_cuda:
        compiled = torch.compile(gated, dynamic=False)
        sides["torch.compile"] = lambda: compiled(projected)
    return Comparison("geglu", asdict(shape), sides, gated(projected.double()), dtype, projected.nbytes * 3 // 2)


def compare(comparison: Comparison, device: torch.device, rounds: int) -> list[Row]:
    """One row for each side.

    Raises:
        AssertionError: our error is more than twice PyTorch's in the same dtype, plus a rounding.
    """
    sides, exact = comparison.sides, comparison.exact
    errors = {name: float((call().double() - exact).abs().max()) for name, call in sides.items()}
    allowed = 2 * errors["PyTorch"] + torch.finfo(comparison.dtype).eps * float(exact.abs().max())
    for name in ("ours", "ours, impl torch"):
        assert errors[name] <= allowed, f"{name} of {comparison.what} at {comparison.shape}: {errors}"
    peaks = {name: peak_extra_bytes(call, device) for name, call in sides.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            times[name].append(timed(call, device))
    moving = Cost(flops=0, padded_flops=0, exponentials=0, bytes=comparison.moved)
    floor = floor_seconds(moving, H100) * 1e6 if device.type == "cuda" else None
    rows = []
    for name in sides:
        on_device, host = (torch.tensor(t, dtype=torch.float64) for t in zip(*times[name], strict=True))
        p20, p50, p80 = (float(on_device.quantile(x)) for x in (0.2, 0.5, 0.8))
        rows.append(
            Row(
                what=comparison.what,
                impl=name,
                shape=comparison.shape,
                dtype=str(comparison.dtype).removeprefix("torch."),
                p20=p20,
                p50=p50,
                p80=p80,
                host_p50=float(host.quantile(0.5)),
                rounds=rounds,
                peak_bytes=peaks[name],
                max_error=errors[name],
                floor=floor if name == "ours" else None,
            )
        )
    return rows


def main() -> int:
    """Run the comparisons; 0 when every row was written."""
    parser = argparse.ArgumentParser(description="Time group normalisation and GEGLU, ours beside PyTorch's.")
    parser.add_argument("--output", type=Path, help="JSON lines are added here (default: benchmarks/results)")
    parser.add_argument("--rounds", type=int, default=100, help="turns of every side (default: %(default)s)")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and arguments.output is None:
        print("no GPU: set TRITON_INTERPRET=1 and name a file with --output to see that it runs", file=sys.stderr)
        return 2
    file = RESULTS / "elementwise.jsonl" if arguments.output is None else arguments.output
    around, dtype = surroundings(device), getattr(torch, arguments.dtype)
    shapes: tuple[NormShape | GateShape, ...] = (*INTERPRETED_NORMS, *INTERPRETED_GATES)
    if device.type == "cuda":
        shapes = (*NORMS, *GATES)
    print(f"{'what':<22}{'shape':>20}  {'impl':<18}{'p50 us':>10}{'of floor':>10}{'extra MB':>10}{'max error':>11}")
    with torch.inference_mode():
        for shape in shapes:
            torch.compiler.reset()  # or a limit would leave later shapes uncompiled
            if isinstance(shape, NormShape):
                comparison = norm_comparison(shape, dtype, device)
            else:
                comparison = gate_comparison(shape, dtype, device)
            for row in compare(comparison, device, arguments.rounds):
                append(file, row, around)
                of_floor = "" if row.floor is None else f"{row.p50 / row.floor:.2f}"
                extra = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
                name = "x".join(map(str, row.shape.values()))
                line = f"{row.what:<22}{name:>20}  {row.impl:<18}{row.p50:>10.1f}"
                print(f"{line}{of_floor:>10}{extra:>10}{row.max_error:>11.2e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
