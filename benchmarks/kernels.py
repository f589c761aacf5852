"""How long our kernels take beside what PyTorch offers: attention, group norm with SiLU, GEGLU, AdaIN, in turns.

    python -m benchmarks kernels            on a GPU: SD-1.5's layers
    TRITON_INTERPRET=1 python -m benchmarks kernels --output FILE    without one: that it runs, at a small size

Every side is first compared with float64; ours must be as accurate as PyTorch's in the same dtype, or nothing is timed.
A floor of all but attention is the time to move the tensors once; what lies in the second-level cache can beat it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from benchmarks.options import cuda, parser_of, prepare
from benchmarks.record import Row
from benchmarks.timing import Setting
from kernels import AttentionResult, Implementation, geglu, group_norm, masked_adain
from kernels.cost import H100, Cost, attention_cost, floor_seconds
from kernels.cross_image_attention.triton import launch

CONTRAST = 1.67
CLASSES = 2
GROUPS = 32
EPS = 1e-5


class Side(NamedTuple):
    """One way to do it, the float64 result that it comes near, and what it costs at the least, if known."""

    call: Callable[[], Tensor]
    exact: Tensor
    cost: Cost | None = None


Case = dict[str, Side]


def materialised(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """The whole map, every step in the dtype of q."""
    p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    if contrast != 1:
        p = (contrast * (p - 1 / k.shape[2]) + 1 / k.shape[2]).clamp_(0, 1)
    return p @ v


def flex_twice(flex: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """Exact with FlexAttention: the first call gives the log-sum-exp, the second takes log p' as its scores."""
    sums = flex(q, k, v, return_aux=AuxRequest(lse=True))[1].lse  # [B, H, N]
    offset = (contrast - 1) / k.shape[2]

    def log_contrasted(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.log(torch.clamp(contrast * torch.exp(score - sums[b, h, i]) - offset, 0.0, 1.0))

    out, kept = flex(q, k, v, score_mod=log_contrasted, return_aux=AuxRequest(lse=True))
    return (out.float() * torch.exp(kept.lse)[..., None]).to(q.dtype)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """float64, one image and head at a time: [B, H, N, D]."""
    heads = zip(*(x.flatten(0, 1).split(1) for x in (q, k, v)), strict=True)  # each [1, N, D]
    outs = [materialised(a[None].double(), b[None].double(), c[None].double(), contrast) for a, b, c in heads]
    return torch.cat(outs).view(q.shape)


def attention(setting: Setting, batch: int, heads: int, tokens: int, width: int) -> Case:
    """Self-attention with as many keys as queries, with contrast and without."""
    q, k, v = _normal(setting, 3, batch, tokens, heads, width).transpose(2, 3)  # [B, H, N, D] as projections give them
    labels = _labels(setting, batch, tokens)
    sharp, plain = (exact_attention(q, k, v, contrast) for contrast in (CONTRAST, 1.0))
    shape = (batch, heads, tokens, tokens, width, q.itemsize)
    cost, plain_cost = (attention_cost(*shape, contrast=contrast) for contrast in (True, False))
    flex = torch.compile(flex_attention, dynamic=False) if q.is_cuda else flex_attention

    # Apart, rows have strides that at some widths are no multiples of 16 elements.
    apart = q.contiguous(), k.contiguous(), v.contiguous()

    def ours(contrast: float, *labelled: Any, contiguous: bool = False, skip: bool = False) -> Tensor:
        query, key, value = apart if contiguous else (q, k, v)
        result = launch(query, key, value, contrast, *labelled, skip=skip).result
        return result.out if isinstance(result, AttentionResult) else result

    wide = q.float(), k.float(), v.float()
    return {
        "ours": Side(partial(ours, CONTRAST), sharp, cost),
        "ours, with statistics": Side(partial(ours, CONTRAST, (labels, labels), CLASSES), sharp, cost),
        "ours, heads apart": Side(partial(ours, CONTRAST, contiguous=True), sharp, cost),
        "ours, skipping tiles": Side(partial(ours, CONTRAST, skip=True), sharp, cost),
        "ours, without contrast": Side(partial(ours, 1.0), plain, plain_cost),
        "materialised": Side(partial(materialised, q, k, v, CONTRAST), sharp),
        "materialised float32": Side(partial(materialised, *wide, CONTRAST), sharp),
        "SDPA, without contrast": Side(partial(F.scaled_dot_product_attention, q, k, v), plain),
        "FlexAttention twice": Side(partial(flex_twice, flex, q, k, v, CONTRAST), sharp),
    }


def elementwise(
    ours: Callable[[Implementation], Tensor],
    theirs: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    moved: int,
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
    return sides


def norm(setting: Setting, batch: int, channels: int, side: int, channels_last: int) -> Case:
    """Group normalisation with SiLU of x [batch, channels, side, side]; ``channels_last`` is 0 or 1."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = _normal(setting, batch, channels, side, side).contiguous(memory_format=layout)
    weight, bias = _normal(setting, 2, channels)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(x, GROUPS, weight, bias, EPS))

    def ours(impl: Implementation) -> Tensor:
        return group_norm(x, GROUPS, weight, bias, eps=EPS, silu=True, impl=impl)

    return elementwise(ours, theirs, (x, weight, bias), 2 * x.nbytes)


def gate(setting: Setting, batch: int, tokens: int, width: int) -> Case:
    """GEGLU of [batch, tokens, 2 · width]."""
    projected = _normal(setting, batch, tokens, 2 * width)

    def theirs(projected: Tensor) -> Tensor:
        value, gate = projected.chunk(2, -1)
        return value * F.gelu(gate)

    return elementwise(lambda impl: geglu(projected, impl=impl), theirs, (projected,), projected.nbytes * 3 // 2)


def adain(setting: Setting, batch: int, side: int) -> Case:
    """AdaIN of latents [batch, 4, side, side], class by class; float32, as the sampler's latents are."""
    z, source = _normal(setting, 2, batch, 4, side, side).float()
    here, there = _labels(setting, 2, side, side)

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
    """How a case is built of a shape, and the side of PyTorch's whose accuracy ours must reach.

    ``shapes`` are SD-1.5's for 512 × 512 px, ``interpreted`` small ones that show that all runs.
    """

    build: Callable[..., Case]
    peer: str
    shapes: Sequence[tuple[int, ...]]
    interpreted: Sequence[tuple[int, ...]]


# The UNet's levels with and without the skip beside them, then the autoencoder's widest grids.
LEVELS = ((320, 64), (960, 64), (640, 32), (1920, 32), (1280, 16), (2560, 16), (1280, 8))
NORMS = [
    *((batch, *level, last) for level, last, batch in product(LEVELS, (0, 1), (1, 4, 8))),
    *((1, *grid, last) for grid, last in product(((128, 512), (512, 256)), (0, 1))),
]
GATES = [(b, *size) for size in ((4096, 1280), (1024, 2560), (256, 5120), (64, 5120)) for b in (1, 4, 8)]
SWAPPED_LAYERS = [(batch, 8, *layer) for layer in ((4096, 40), (1024, 80)) for batch in (1, 2, 4, 8)]
KINDS = {
    "attention": Kind(attention, "materialised", SWAPPED_LAYERS, [(1, 1, 33, 40)]),
    "group_norm with SiLU": Kind(norm, "PyTorch", NORMS, [(1, 64, 8, 0), (1, 64, 8, 1)]),
    "geglu": Kind(gate, "PyTorch", GATES, [(1, 5, 40)]),
    "adain": Kind(adain, "PyTorch", [(batch, 64) for batch in (1, 4, 8)], [(1, 8)]),
}


def _normal(setting: Setting, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device, setting.dtype)


def _labels(setting: Setting, *shape: int) -> Tensor:
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(0)).to(setting.device)


def measure(setting: Setting, what: str, shape: Sequence[int]) -> list[Row]:
    """One row for each side at one shape.

    Raises AssertionError if our error is more than twice that of the peer in the same dtype, plus a rounding.
    """
    build, peer, *_ = KINDS[what]
    case = build(setting, *shape)
    outputs = {name: side.call() for name, side in case.items()}
    errors = {name: float((out.double() - case[name].exact).abs().max()) for name, out in outputs.items()}
    allowed = 2 * errors[peer] + torch.finfo(outputs[peer].dtype).eps * float(case[peer].exact.abs().max())
    for name, error in errors.items():
        assert error <= allowed or not name.startswith("ours"), f"{name} of {what} at {shape}: {errors}"
    dtypes = {name: str(out.dtype).removeprefix("torch.") for name, out in outputs.items()}
    del outputs

    entries = dict(zip(list(signature(build).parameters)[1:], shape, strict=True))
    sides = {name: side.call for name, side in case.items()}
    rows, _ = setting.compare(what, sides, entries, against="float64", warm_ups=0)  # they are warm by now
    for number, row in enumerate(rows):
        cost = case[row.impl].cost
        floor = floor_seconds(cost, H100) if cost is not None and cuda() else None
        rows[number] = replace(row, dtype=dtypes[row.impl], max_error=errors[row.impl], floor=floor)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run the comparisons; 0 when every row was written."""
    parser = parser_of("kernels", rounds=100, networks=False)
    options = parser.parse_args(arguments)
    if not cuda() and options.output == parser.get_default("output"):
        print("no GPU: set TRITON_INTERPRET=1 and name a file with --output to see that it runs", file=sys.stderr)
        return 2
    setting = prepare(options)
    with torch.inference_mode():
        for what, kind in KINDS.items():
            for shape in kind.shapes if cuda() else kind.interpreted:
                torch.compiler.reset()  # or a limit would leave later shapes uncompiled
                setting.recorder.add(measure(setting, what, shape))
    return 0
