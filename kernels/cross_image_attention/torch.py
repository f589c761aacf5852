"""``impl="torch"``: attention in blocks of queries, with no map of all queries against all keys.

A block of scores stays in the cache from the first product to the last. The contrast costs two passes over it: one
interpolates from 1/Nk through p, the other clips. What is left of p - 1/Nk is multiplied, never a difference of terms
of the size of β: a row whose probabilities are all 1/Nk, and the one probability of a single key, stay as they are at
every contrast. (``β·clip(p - (1 - 1/β)/Nk, 0, 1/β)`` costs as much and rounds each p by β·2⁻²⁴ of 1/Nk.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.cross_image_attention import reference, torch_masked
from kernels.onednn import PART, is_supported, linear, pack_parts, sum_of_parts
from kernels.precision import accumulator
from kernels.results import ClassStatistics

# Bytes of one block of scores. On a CPU a block and its probabilities should stay near the core, and each
# thread brings its own cache; on a GPU a block must fill the device. Two such blocks are held at once.
_CPU_BLOCK_PER_THREAD = 2 * 2**20
_LARGEST_BLOCK = 16 * 2**20
_MOST_CPU_ROWS = 512
# From so many keys on, blocks are quicker on a CPU than PyTorch's own attention.
_MANY_KEYS = 1024
# Beyond so many a block that stays in the cache has so few rows that keys and values are read again for each of them.
_MOST_KEYS = 16384
# So many keys oneDNN sums in two halves by itself; parts would cost a twelfth of the whole there and gain little.
_TWO_SUMS = 1024
# So few queries PyTorch multiplies by vectors of D: sums that round two or three times less than one after the other.
_FEW_QUERIES = 8


def attention(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """q [B, H, Nq, D], k and v [B, H, Nk, D] -> [B, H, Nq, D]."""
    if contrast == 1:
        return plain(q, k, v)
    out = _empty_like(q)
    compute = _by_onednn if is_supported(q, k, v) else _in_blocks
    for b in range(q.shape[0]):
        compute(q[b], k[b], v[b], contrast, out[b])
    return out


def attention_within_class(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    contrast: float,
    query_labels: Tensor,
    key_labels: Tensor,
    num_classes: int,
) -> Tensor:
    """As ``attention``, each class of queries seeing its own keys. Labels [B, Nq] and [B, Nk]."""
    if torch_masked.is_wanted(q):
        return torch_masked.attention_within_class(q, k, v, contrast, query_labels, key_labels, num_classes)
    out = _empty_like(q)
    compute = _by_onednn if is_supported(q, k, v) else _in_blocks
    for b in range(q.shape[0]):
        known = (query_labels[b] >= 0) & (query_labels[b] < num_classes)
        members = [(query_labels[b] == c).nonzero()[:, 0] for c in range(num_classes)]
        members.append((~known).nonzero()[:, 0])
        for c, query_index in enumerate(members):
            if len(query_index) == 0:
                continue
            own_keys = (key_labels[b] == c).nonzero()[:, 0]
            key_index = slice(None) if c == num_classes or len(own_keys) == 0 else own_keys
            query, key, value = q[b][:, query_index], k[b][:, key_index], v[b][:, key_index]  # [H, members, D]
            if contrast == 1:
                part = plain(query[None], key[None], value[None])[0]
            else:
                part = torch.empty_like(query)
                compute(query, key, value, contrast, part)
            out[b].index_copy_(1, query_index, part)
    return out


def _empty_like(q: Tensor) -> Tensor:
    """[B, H, Nq, D] in memory order [B, Nq, H, D], as the projection after attention reads it."""
    batch, heads, count, width = q.shape
    return q.new_empty(batch, count, heads, width).transpose(1, 2)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as it is in every layer that swaps nothing: as `attention` at contrast 1, and differentiable."""
    if _MANY_KEYS <= k.shape[2] <= _MOST_KEYS and is_supported(q, k, v):
        out = _empty_like(q)
        for b in range(q.shape[0]):
            _by_onednn(q[b], k[b], v[b], 1.0, out[b])
        return out
    # PyTorch falls back to a full map where the last stride is not 1.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    out = scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _block(heads: int, queries: int, keys: int, itemsize: int, device: torch.device) -> tuple[int, int]:
    """Heads and queries of one block of scores."""
    budget = _LARGEST_BLOCK
    if device.type == "cpu":
        budget = min(budget, _CPU_BLOCK_PER_THREAD * torch.get_num_threads())
    rows = max(1, min(queries, budget // (keys * itemsize)))
    return max(1, min(heads, budget // (rows * keys * itemsize))), rows


def _apply_contrast(p: Tensor, mean: Tensor, contrast: float) -> None:
    """Probabilities p [..., Nk], in place: contrast·(p - mean) + mean, clipped. ``mean`` is 1/Nk, no dimensions."""
    torch.lerp(mean, p, contrast, out=p).clamp_(0, 1)


@torch.no_grad()
def _in_blocks(q: Tensor, k: Tensor, v: Tensor, contrast: float, out: Tensor) -> None:
    """q [H, Nq, D], k and v [H, Nk, D]; writes out [H, Nq, D]."""
    heads, queries, width = q.shape
    keys = k.shape[1]
    dtype = accumulator(q.dtype)
    block_heads, rows = _block(heads, queries, keys, dtype.itemsize, q.device)
    # Filled in where it lies: made of a number on the host, a GPU would wait for it and no graph could record it.
    mean = q.new_full((), 1 / keys, dtype=dtype)
    scores_buffer = q.new_empty(block_heads * rows * keys, dtype=dtype)
    probabilities_buffer = torch.empty_like(scores_buffer)
    for first in range(0, heads, block_heads):
        part = slice(first, first + block_heads)
        scaled = q[part].to(dtype) / math.sqrt(width)  # [h, Nq, D]
        key_columns = k[part].to(dtype).transpose(1, 2)  # [h, D, Nk]
        key_columns = key_columns if queries <= _FEW_QUERIES else key_columns.contiguous()
        values = v[part].to(dtype).contiguous()  # [h, Nk, D]
        for row in range(0, queries, rows):
            block = scaled[:, row : row + rows]
            extent = (block.shape[0], block.shape[1], keys)
            scores = scores_buffer[: math.prod(extent)].view(extent)
            probabilities = probabilities_buffer[: math.prod(extent)].view(extent)
            torch.bmm(block, key_columns, out=scores)
            torch.softmax(scores, -1, out=probabilities)
            _apply_contrast(probabilities, mean, contrast)
            out[part, row : row + rows] = torch.bmm(probabilities, values).to(out.dtype)  # [h, rows, D]


@torch.no_grad()
def _by_onednn(q: Tensor, k: Tensor, v: Tensor, contrast: float, out: Tensor) -> None:
    """As `_in_blocks`, for any contrast: one head after the other, scores in float32."""
    heads, queries, width = q.shape
    keys = k.shape[1]
    dtype = accumulator(q.dtype)
    _, rows = _block(1, queries, keys, dtype.itemsize, q.device)
    rows = min(rows, _MOST_CPU_ROWS)
    mean = q.new_full((), 1 / keys, dtype=dtype)
    buffer = q.new_empty(rows, keys, dtype=dtype)
    in_parts = v.dtype == torch.float32 and keys > PART and keys != _TWO_SUMS
    # Whole parts: what lies past the keys stays 0.
    padded = buffer.new_zeros(rows, -(-keys // PART) * PART) if in_parts and keys % PART else buffer
    for head in range(heads):
        scaled = q[head].to(dtype) / math.sqrt(width)  # [Nq, D]
        key = k[head].to(dtype).contiguous()  # [Nk, D]
        values = v[head].t()  # [D, Nk]
        values = pack_parts(values, rows) if in_parts else values.contiguous()
        for row in range(0, queries, rows):
            block = scaled[row : row + rows]
            scores = block @ key.t() if len(block) <= _FEW_QUERIES else linear(block, key)  # [rows, Nk]
            p = torch.softmax(scores, -1, out=buffer[: len(scores)])
            if contrast != 1:
                _apply_contrast(p, mean, contrast)
            if in_parts:
                if padded is not buffer:
                    padded[: len(p), :keys] = p
                part = sum_of_parts(padded[: len(p)], values, width)
            else:
                part = linear(p.to(v.dtype), values)
            out[head, row : row + rows] = part  # [rows, D]


@torch.no_grad()
def class_statistics(x: Tensor, labels: Tensor, num_classes: int) -> ClassStatistics:
    """x [B, H, N, D] and labels [B, N] -> count [B, C], mean and unbiased variance [B, H, C, D]."""
    if torch_masked.is_wanted(x):
        return reference.class_statistics(x, labels, num_classes)  # by masks, with nothing to wait for
    batch, heads, _, width = x.shape
    dtype = accumulator(x.dtype)
    count = torch.zeros(batch, num_classes, dtype=torch.int64, device=x.device)
    mean = torch.zeros(batch, heads, num_classes, width, dtype=dtype, device=x.device)
    variance = torch.zeros_like(mean)
    for b in range(batch):
        for c in range(num_classes):
            member = (labels[b] == c).nonzero()[:, 0]  # [members]
            count[b, c] = len(member)
            if len(member) == 0:
                continue
            values = x[b][:, member].to(dtype)  # [H, members, D]
            mean[b, :, c] = values.mean(1)
            if len(member) > 1:
                values = values - mean[b, :, None, c]
                variance[b, :, c] = values.square_().sum(1) / (len(member) - 1)
    return ClassStatistics(count, mean, variance)
