"""Matrix products and convolutions by oneDNN, for inference on a CPU.

PyTorch reaches oneDNN too, but by ways that cost a network dearly: float32 products go to MKL, which on processors of
other makers runs at less than half of oneDNN's speed; a bias is first copied over the whole result; and a convolution
brings its weights into oneDNN's layout at every call, which at 8×8 positions takes many times longer than the
convolution itself. The operators here are those that ``torch.compile`` emits for CPUs.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 256  # terms of one sum in `sum_of_parts`

Activation = Literal["none", "gelu"]


def is_supported(*tensors: Tensor) -> bool:
    """Whether oneDNN takes these: on an x86 CPU, in a type that it multiplies natively, and wanting no gradients."""
    if not tensors[0].is_cpu:
        return False
    dtype = tensors[0].dtype
    if any(t.device.type != "cpu" or t.dtype != dtype for t in tensors) or not _multiplies(dtype):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """``activation(x · weightᵀ + bias)``, sums in float32 (float64 for float64): x [..., K], weight [N, K] -> [..., N].

    ``gelu`` is the exact one. What oneDNN does not take is left to PyTorch.
    """
    if not is_supported(x, weight) or (bias is not None and not is_supported(bias)):
        out = F.linear(x, weight, bias)
        return F.gelu(out) if activation == "gelu" else out
    algorithm = "none" if activation == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, activation, [], algorithm)


def pack_parts(weight: Tensor, rows: int) -> Tensor:
    """weight [N, K] for `sum_of_parts`: its columns in parts of `PART` (zeros after the last), each one a group of a
    convolution. ``rows`` is how many x will have where it is to be quickest."""
    count, length = weight.shape
    parts = -(-length // PART)
    # A group's outputs in whole vectors of 16: others take longer.
    padded = weight.new_zeros(parts, -(-count // 16) * 16, PART)
    for part, columns in enumerate(torch.split(weight, PART, 1)):
        padded[part, :count, : columns.shape[1]] = columns
    shape = [1, parts * PART, rows, 1]
    groups = padded.flatten(0, 1)[:, :, None, None]
    return torch.ops.mkldnn._reorder_convolution_weight(groups, [0, 0], [1, 1], [1, 1], parts, shape)


def sum_of_parts(x: Tensor, packed: Tensor, count: int) -> Tensor:
    """``x · weightᵀ`` with the sum over K taken in parts of `PART`: x [rows, K] contiguous, K their multiple.

    Gives [rows, N].

    One sum over thousands of terms, as `linear` takes it, has up to two and a half times the error of MKL's.
    """
    parts = x.shape[1] // PART
    pixels = x.t()[None, :, :, None]  # [1, K, rows, 1], channels last
    sums = torch.ops.mkldnn._convolution_pointwise(pixels, packed, None, [0, 0], [1, 1], [1, 1], parts, "none", [], "")
    return sums[0, :, :, 0].t().unflatten(1, (parts, -1)).sum(1)[:, :count]


def prepack(weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], positions: tuple[int, int]) -> Tensor:
    """Weights [C_out, C_in, h, w] of a convolution, for `convolve` alone: opaque, of the same size in memory.

    ``positions`` are height and width of an input they are to be quickest at; any other is taken too.
    """
    shape = [1, weight.shape[1], *positions]
    return torch.ops.mkldnn._reorder_convolution_weight(weight, list(padding), list(stride), [1, 1], 1, shape)


def convolve(
    x: Tensor, packed: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """Convolution of x [B, C_in, H, W] with prepacked weights; the result [B, C_out, H', W'] is channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, list(padding), list(stride), [1, 1], 1, "none", [], ""
    )


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16 or AMX); others are slower with it than without."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@cache
def _multiplies(dtype: torch.dtype) -> bool:
    # Elsewhere this has not been tried.
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    names = ("_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16())
