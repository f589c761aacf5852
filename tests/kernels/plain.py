"""What a user of plain PyTorch would write, every step in the dtype of the input: the yardstick of the tests.

In float64 it is the exact result. Written apart from ``kernels.reference``, which is tested against it too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """The materialised map, transformed in place of nothing: [B, H, Nq, D]."""
    p = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5, -1)
    if contrast != 1:
        mean = 1 / k.shape[2]
        p = torch.clip(mean + (p - mean) * contrast, 0.0, 1.0)
    return torch.einsum("bhqk,bhkd->bhqd", p, v)


def terms(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """What float32 roundings inside attention are relative to: [B, H, Nq, D] in float64.

    A score s off by one rounding, |s|·ε, moves p v by p·|s|·ε·|v|, and p itself is rounded: (1 + |s|)·p·|v|
    summed over the keys, times the contrast.
    """
    q, k, v = q.double(), k.double(), v.double()
    s = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    weights = torch.softmax(s, -1) * (1 + s.abs()) * max(contrast, 1.0)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v.abs())


def restricted(q: Tensor, k: Tensor, v: Tensor, contrast: float, q_labels: Tensor, k_labels: Tensor) -> Tensor:
    """Image by image and class by class on the class's own rows: [B, H, Nq, D]."""
    out = torch.full_like(q, math.nan)
    for b in range(len(q)):
        rows = q_labels.expand(len(q), -1)[b]
        columns = k_labels.expand(len(q), -1)[b]
        for c in rows.unique():
            seen = columns == c if (columns == c).any() else columns == columns
            part = attention(q[b : b + 1, :, rows == c], k[b : b + 1, :, seen], v[b : b + 1, :, seen], contrast)
            out[b, :, rows == c] = part[0]
    return out


def statistics(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count [B, C], mean and unbiased variance [B, H, C, D] in at least float32."""
    x = x if x.dtype == torch.float64 else x.float()
    b, h, _, d = x.shape
    count = torch.zeros(b, classes, dtype=torch.int64, device=x.device)
    mean, variance = x.new_zeros(b, h, classes, d), x.new_zeros(b, h, classes, d)
    for i in range(b):
        for c in range(classes):
            members = x[i][:, labels.expand(b, -1)[i] == c]
            count[i, c] = members.shape[1]
            if members.shape[1] > 0:
                mean[i, :, c] = members.mean(1)
            if members.shape[1] > 1:
                variance[i, :, c] = members.var(1)
    return count, mean, variance


def adain(z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: list[int]) -> Tensor:
    """Masked AdaIN, each image, class and channel on its own."""
    result = z.clone()
    for b in range(len(z)):
        origin = source[b % len(source)]
        z_class = z_labels.expand(len(z), *z.shape[2:])[b]
        source_class = source_labels.expand(len(source), *source.shape[2:])[b % len(source)]
        for channel in range(z.shape[1]):
            for c in classes:
                x, y = z[b, channel][z_class == c], origin[channel][source_class == c]
                if len(x) < 2 or len(y) < 2:
                    continue
                normal = (x - x.mean()) / torch.sqrt(x.var() + 1e-5)
                result[b, channel][z_class == c] = normal * torch.sqrt(y.var() + 1e-5) + y.mean()
    return result


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """PyTorch's own on contiguous memory: for channels last its CPU kernel subtracts squares."""
    out = F.group_norm(x.contiguous(), groups, weight, bias, eps)
    return F.silu(out) if silu else out


def group_norm_terms(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """What float32 roundings inside group normalisation are relative to: [B, C, H, W] in float64.

    x and the mean are each off by a rounding of theirs before they meet: (|x| + |mean|) / deviation · |weight|, and
    the shift |bias| beside it.
    """
    grouped = x.double().unflatten(1, (groups, -1))  # [B, G, C/G, H, W]
    variance, mean = torch.var_mean(grouped, (2, 3, 4), correction=0, keepdim=True)
    size = ((grouped.abs() + mean.abs()) / (variance + eps).sqrt()).flatten(1, 2)
    return size * weight.double().abs()[:, None, None] + bias.double().abs()[:, None, None]


def geglu(projected: Tensor) -> Tensor:
    """As the published networks write it."""
    value, gate = projected.chunk(2, -1)
    return value * F.gelu(gate)


def geglu_terms(projected: Tensor) -> Tensor:
    """What float32 roundings inside GEGLU are relative to: value · gate · (1 + erf), and 1 + erf off by its own."""
    value, gate = projected.double().abs().chunk(2, -1)
    return value * (1 + gate)
