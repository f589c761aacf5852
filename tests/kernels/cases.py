"""Inputs for the kernel tests: head widths, odd and unequal counts, strides, label patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One shape of attention. ``layout`` says where q, k and v lie in memory."""

    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    layout: str = "projection"

    def __str__(self) -> str:
        return f"{self.batch}x{self.heads}x{self.queries}x{self.keys}x{self.width}-{self.layout}"


CASES = (
    Case(1, 2, 256, 256, 40),
    Case(2, 2, 131, 197, 40, "heads"),
    Case(1, 2, 97, 131, 80, "surrounded"),
    Case(2, 1, 64, 33, 160, "backwards"),
    Case(1, 3, 65, 64, 16, "fused"),
    Case(1, 1, 1, 1, 8),
)


def attention_input(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, H, Nq, D], k and v [B, H, Nk, D]; some rows of the map are flat, some have one large entry."""
    g = torch.Generator().manual_seed(seed)
    b, h, d = case.batch, case.heads, case.width
    q = torch.randn(b, case.queries, h, d, generator=g)
    k = torch.randn(b, case.keys, h, d, generator=g)
    v = torch.randn(b, case.keys, h, d, generator=g)
    q[:, ::7] *= 0.1
    matched = torch.randint(case.keys, (len(range(3, case.queries, 16)),), generator=g)
    q[:, 3::16] = k[:, matched] * 1.5
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if case.layout == "heads":
        q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    if case.layout == "fused":
        k, v = torch.stack([k, v], 2).unbind(2)
    if case.layout == "surrounded":
        q, k, v = (torch.nn.functional.pad(t, (1, 2, 1, 1, 3, 3), value=math.nan) for t in (q, k, v))
        q, k, v = (t[:, 3:-3, 1:-1, 1:-2] for t in (q, k, v))
    if case.layout == "backwards":
        q, k, v = (t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for t in (q, k, v))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def labels(pattern: str, batch: int, count: int, seed: int = 0) -> Tensor:
    """int64 labels of 3 classes: [count], or [batch, count] for the patterns that differ in the batch."""
    g = torch.Generator().manual_seed(seed)
    if pattern == "mixed":
        return torch.randint(3, (count,), generator=g)
    if pattern == "per image":
        return torch.randint(3, (batch, count), generator=g)
    if pattern == "all in one":
        return torch.full((count,), 1)
    if pattern == "one pixel":
        return torch.zeros(count, dtype=torch.int64).index_fill(0, torch.tensor([count // 2]), 2)
    if pattern == "without 0":
        return torch.randint(1, 3, (count,), generator=g)
    raise ValueError(pattern)


# (queries, keys): an empty class, one pixel, all pixels, classes on one side only.
LABEL_PATTERNS = (
    ("mixed", "mixed"),
    ("per image", "per image"),
    ("all in one", "mixed"),
    ("mixed", "one pixel"),
    ("one pixel", "without 0"),
    ("without 0", "all in one"),
)


@dataclass(frozen=True)
class NormCase:
    """One shape of group normalisation. ``layout`` says where x lies in memory."""

    batch: int
    channels: int
    height: int
    width: int
    groups: int
    layout: str = "contiguous"

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width}-{self.groups}-{self.layout}"


def norm_input(
    case: NormCase, dtype: torch.dtype, *, mean: float = 0.5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, C, H, W], whose channels differ in mean and spread, weight [C] and bias [C]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(case.batch, case.channels, case.height, case.width, generator=g)
    spread = torch.rand(case.channels, 1, 1, generator=g) + 0.5
    x = x * spread + mean + torch.randn(case.channels, 1, 1, generator=g)
    weight, bias = torch.randn(2, case.channels, generator=g).to(dtype)
    x = x.to(dtype)
    if case.layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    if case.layout == "surrounded":
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 1), value=math.nan)[:, 2:-1]
    if case.layout == "channels last surrounded":
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 1), value=math.nan)
        x = x.contiguous(memory_format=torch.channels_last)[:, 2:-1]
    if case.layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    return x, weight, bias


def doubles(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float64."""
    return [t.double() for t in tensors]
