"""Attention within classes by masks, for GPUs.

A class's members could be gathered, as on a CPU, but their number would have to be read back: the host would wait for
the GPU in every layer, and no graph could record it.

B batch, H heads, Nq queries, Nk keys, D head width, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.precision import accumulator

_BLOCK = 2**26  # bytes of one block of scores, of which four are held at once


def is_wanted(x: Tensor) -> bool:
    """Whether x lies where masks are better than gathered members."""
    return not x.is_cpu


def zero_nonfinite(v: Tensor, key_labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """v with 0 for what is not finite, and the sums of that [B, H, C + 1, D]: of each class, last of all keys.

    Values serve rows of several classes, and 0·∞ of a key that a row does not see would be NaN in it. The sums are 0,
    infinite or NaN; each row is given those that it sees.
    """
    finite = v.isfinite()
    lost = torch.where(finite, 0, v).float()
    sums = [torch.where((key_labels == c)[:, None, :, None], lost, 0).sum(2) for c in range(num_classes)]
    return torch.where(finite, v, 0), torch.stack([*sums, lost.sum(2)], 2)


@torch.no_grad()
def attention_within_class(
    q: Tensor, k: Tensor, v: Tensor, contrast: float, query_labels: Tensor, key_labels: Tensor, num_classes: int
) -> Tensor:
    """As `torch.attention_within_class`. Labels [B, Nq] and [B, Nk]; those outside 0..C-1 belong to no class."""
    batch, heads, queries, width = q.shape
    keys, dtype = k.shape[2], accumulator(q.dtype)
    v, lost = zero_nonfinite(v, key_labels, num_classes)
    has_keys = torch.stack([(key_labels == c).any(1) for c in range(num_classes)], 1)  # [B, C]
    known = (query_labels >= 0) & (query_labels < num_classes)  # [B, Nq]
    kind = query_labels.long().clamp(0, num_classes - 1)
    sees_all = ~(known & has_keys.gather(1, kind))  # [B, Nq]
    kind = torch.where(sees_all, num_classes, kind)
    out = q.new_empty(batch, queries, heads, width).transpose(1, 2)
    rows = max(1, min(queries, _BLOCK // (heads * keys * dtype.itemsize)))
    for b in range(batch):
        key_columns, values = k[b].to(dtype).transpose(1, 2), v[b].to(dtype)  # [H, D, Nk], [H, Nk, D]
        for row in range(0, queries, rows):
            part = slice(row, row + rows)
            unseen = (query_labels[b, part, None] != key_labels[b]) & ~sees_all[b, part, None]  # [rows, Nk]
            scores = (q[b, :, part].to(dtype) / math.sqrt(width)) @ key_columns  # [H, rows, Nk]
            p = scores.masked_fill_(unseen, -math.inf).softmax(-1)
            if contrast != 1:
                mean = 1 / (~unseen).sum(-1, keepdim=True).to(dtype)  # [rows, 1]
                p = torch.lerp(mean, p, contrast).clamp_(0, 1).masked_fill_(unseen, 0)
            out[b, :, part] = ((p @ values) + lost[b][:, kind[b, part]].to(dtype)).to(out.dtype)
    return out
