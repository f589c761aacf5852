"""How long our kernels take beside what PyTorch offers: attention, group norm with SiLU, GEGLU, AdaIN, in turns.

    python -m benchmarks kernels            on a GPU: SD-1.5's layers, rows added to results/kernels.jsonl
    TRITON_INTERPRET=1 python -m benchmarks kernels --output FILE    without one: that it runs, at a small size

Every side is first compared with float64; ours must be as accurate as PyTorch's in the same dtype, or nothing is timed.
A floor of all but attention is the time that memory needs to move the tensors once; what lies in the second-level cache
can beat it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from benchmarks.options import chosen, common_parser, cuda, recorder_of
from benchmarks.record import Row
from benchmarks.timing import Outputs, as_rows, take_turns
from kernels import AttentionResult, Implementation, geglu, group_norm, masked_adain
from kernels.cost import H100, Cost, attention_cost, floor_seconds
from kernels.cross_image_attention.triton import launch

CONTRAST = 1.67
CLASSES = 2
EPS = 1e-5


class Side(NamedTuple):
    """One way to do it, the float64 result that it comes near, and what it costs at the least, if known."""

    call: Callable[[], Tensor]
    exact: Tensor
    cost: Cost | None = None


class Case(NamedTuple):
    """Ways to do one thing by name. ``peer`` names PyTorch's whose accuracy ours must reach.

    ``visited`` is the share of second-pass tiles that attention does not skip.
    """

    sides: dict[str, Side]
    peer: str
    visited: float | None = None


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


def exact_attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """float64, one image and head at a time: [B, H, N, D]."""
    heads = zip(*(x.flatten(0, 1).split(1) for x in (q, k, v)), strict=True)  # each [1, N, D]
    outs = [materialised(a[None].double(), b[None].double(), c[None].double(), contrast) for a, b, c in heads]
    return torch.cat(outs).view(q.shape)


def attention(dtype: torch.dtype, device: torch.device, batch: int, heads: int, tokens: int, width: int) -> Case:
    """Self-attention with as many keys as queries, with contrast and without."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, batch, tokens, heads, width, generator=g).to(device, dtype)
    q, k, v = x.transpose(2, 3)  # [B, H, N, D] as it comes from the projections
    labels = torch.randint(CLASSES, (batch, tokens), generator=g).to(device)
    sharp, plain = (exact_attention(q, k, v, contrast) for contrast in (CONTRAST, 1.0))
    cost, plain_cost = (
        attention_cost(batch, heads, tokens, tokens, width, dtype.itemsize, contrast=contrast)
        for contrast in (True, False)
    )
    flex = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention

    def ours(contrast: float, *labelled: Any) -> Tensor:
        result = launch(q, k, v, contrast, *labelled).result
        return result.out if isinstance(result, AttentionResult) else result

    wide = q.float(), k.float(), v.float()
    launched = launch(q, k, v, CONTRAST)
    assert launched.visited is not None
    sides = {
        "ours": Side(partial(ours, CONTRAST), sharp, cost),
        "ours, with statistics": Side(partial(ours, CONTRAST, (labels, labels), CLASSES), sharp, cost),
        "ours, without contrast": Side(partial(ours, 1.0), plain, plain_cost),
        "materialised": Side(partial(materialised, q, k, v, CONTRAST), sharp),
        "materialised float32": Side(partial(materialised, *wide, CONTRAST), sharp),
        "SDPA, without contrast": Side(partial(F.scaled_dot_product_attention, q, k, v), plain),
        "FlexAttention twice": Side(partial(flex_twice, flex, q, k, v, CONTRAST), sharp),
    }
    return Case(sides, "materialised", float(launched.visited.float().mean()) / launched.tiles)


def elementwise(
    ours: Callable[[Implementation], Tensor],
    theirs: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    moved: int,
    *,
    compilable: bool = True,
) -> Case:
    """``ours`` by implementation beside PyTorch's ``theirs`` of ``inputs``; ``moved`` are the bytes in and out."""
    exact = theirs(*(x.double().contiguous() if x.is_floating_point() else x for x in inputs))
    cost = Cost(flops=0, padded_flops=0, exponentials=0, bytes=moved)
    sides = {
        "ours": Side(partial(ours, "triton"), exact, cost),
        "ours, impl torch": Side(partial(ours, "torch"), exact),
        "PyTorch": Side(partial(theirs, *inputs), exact),
    }
    if cuda() and compilable:
        sides["torch.compile"] = Side(partial(torch.compile(theirs, dynamic=False), *inputs), exact)
    return Case(sides, "PyTorch")


def norm(
    dtype: torch.dtype, device: torch.device, batch: int, channels: int, side: int, channels_last: int, groups: int
) -> Case:
    """Group normalisation with SiLU of x [batch, channels, side, side]; ``channels_last`` is 0 or 1."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, side, side, generator=g).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    weight, bias = torch.randn(2, channels, generator=g).to(device, dtype)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(x, groups, weight, bias, EPS))

    def ours(impl: Implementation) -> Tensor:
        return group_norm(x, groups, weight, bias, eps=EPS, silu=True, impl=impl)

    return elementwise(ours, theirs, (x, weight, bias), 2 * x.nbytes)


def gate(dtype: torch.dtype, device: torch.device, batch: int, tokens: int, width: int) -> Case:
    """GEGLU of [batch, tokens, 2 · width]."""
    projected = torch.randn(batch, tokens, 2 * width, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def theirs(projected: Tensor) -> Tensor:
        value, gate = projected.chunk(2, -1)
        return value * F.gelu(gate)

    return elementwise(lambda impl: geglu(projected, impl=impl), theirs, (projected,), projected.nbytes * 3 // 2)


def adain(dtype: torch.dtype, device: torch.device, batch: int, side: int) -> Case:
    """AdaIN of latents [batch, 4, side, side], class by class; float32, as the sampler's latents are."""
    g = torch.Generator().manual_seed(0)
    z, source = torch.randn(2, batch, 4, side, side, generator=g).to(device)
    here, there = torch.randint(CLASSES, (2, side, side), generator=g).to(device)

    def theirs(z: Tensor, source: Tensor, here: Tensor, there: Tensor) -> Tensor:
        out = z.clone()
        for c in range(CLASSES):
            mine, wanted = z[..., here == c], source[..., there == c]  # [B, 4, positions]
            (variance, mean), (to, towards) = (torch.var_mean(x, -1, keepdim=True) for x in (mine, wanted))
            out[..., here == c] = (mine - mean) * ((to + EPS) / (variance + EPS)).sqrt() + towards
        return out

    def ours(impl: Implementation) -> Tensor:
        classes = range(CLASSES)
        return masked_adain(z, source, here, there, classes=classes, num_classes=CLASSES, eps=EPS, impl=impl)

    # Its shapes depend on the labels, so it is not compiled.
    return elementwise(ours, theirs, (z, source, here, there), 3 * z.nbytes, compilable=False)


class Kind(NamedTuple):
    """How a case is built of a shape, SD-1.5's shapes for 512 × 512 px, and shapes for Triton's interpreter.

    These are small: they show that the benchmark runs, and time nothing worth knowing.
    """

    build: Callable[..., Case]
    shapes: Sequence[tuple[int, ...]]
    interpreted: Sequence[tuple[int, ...]]


# The UNet's levels with and without the skip beside them, then the autoencoder's widest grids.
LEVELS = ((320, 64), (960, 64), (640, 32), (1920, 32), (1280, 16), (2560, 16), (1280, 8))
NORMS = [
    *((batch, *level, last, 32) for level, last, batch in product(LEVELS, (0, 1), (1, 4, 8))),
    *((1, *grid, last, 32) for grid, last in product(((128, 512), (512, 256)), (0, 1))),
]
GATES = [(b, *size) for size in ((4096, 1280), (1024, 2560), (256, 5120), (64, 5120)) for b in (1, 4, 8)]
SWAPPED_LAYERS = [(batch, 8, *layer) for layer in ((4096, 40), (1024, 80)) for batch in (1, 2, 4, 8)]
KINDS = {
    "attention": Kind(attention, SWAPPED_LAYERS, [(1, 1, 33, 40)]),
    "group_norm with SiLU": Kind(norm, NORMS, [(1, 16, 8, 0, 4), (1, 16, 8, 1, 4)]),
    "geglu": Kind(gate, GATES, [(1, 5, 40)]),
    "adain": Kind(adain, [(batch, 64) for batch in (1, 4, 8)], [(1, 8)]),
}


def measure(what: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, rounds: int) -> list[Row]:
    """One row for each side at one shape.

    Raises:
        AssertionError: our error is more than twice that of the peer in the same dtype, plus a rounding.
    """
    build = KINDS[what].build
    case = build(dtype, device, *shape)
    errors = {name: float((side.call().double() - side.exact).abs().max()) for name, side in case.sides.items()}
    peer = case.sides[case.peer]
    allowed = 2 * errors[case.peer] + torch.finfo(peer.call().dtype).eps * float(peer.exact.abs().max())
    for name, error in errors.items():
        assert error <= allowed or not name.startswith("ours"), f"{name} of {what} at {shape}: {errors}"

    def call(side: Side) -> Outputs:
        return (side.call(),)

    calls = {name: partial(call, side) for name, side in case.sides.items()}
    outcomes = take_turns(calls, device, rounds, warm_ups=0, brief=True)
    entries = dict(zip(list(build.__annotations__)[2:-1], shape, strict=True))
    rows = []
    for row in as_rows(what, entries, dtype, outcomes, against="float64"):
        cost, own = case.sides[row.impl].cost, outcomes[row.impl].outputs[0].dtype
        floor = floor_seconds(cost, H100) if cost is not None and cuda() else None
        visited = case.visited if row.impl == "ours" else None
        name = str(own).removeprefix("torch.")
        rows.append(replace(row, dtype=name, max_error=errors[row.impl], floor=floor, visited=visited))
    return rows


def main() -> int:
    """Run the comparisons; 0 when every row was written."""
    parser = common_parser("Time our kernels beside PyTorch's ways.", rounds=100)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="of these (default: all)")
    parser.set_defaults(dtype="fp16")
    arguments = parser.parse_args()
    if not cuda() and arguments.output is None:
        print("no GPU: set TRITON_INTERPRET=1 and name a file with --output to see that it runs", file=sys.stderr)
        return 2
    device, dtype = chosen(arguments)
    recorder = recorder_of(arguments, "kernels", device)
    with torch.inference_mode():
        for what in arguments.only:
            for shape in KINDS[what].shapes if cuda() else KINDS[what].interpreted:
                torch.compiler.reset()  # or a limit would leave later shapes uncompiled
                recorder.add(measure(what, shape, dtype, device, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
