"""One pass of the attention kernel over the keys: both of its passes, told apart by ``PASS``.

In names of strides n is the key and d the column of a head; columns are held as two pieces, as in the kernel.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_tile_ops import dot, load_tile, round_to


@triton.jit
def _scores(
    q_0,  # [BLOCK_M, HEAD_DIM_0], q's dtype
    q_1,  # [BLOCK_M, HEAD_DIM_1], q's dtype
    k_base,  # of one image and head: [N_K, HEAD_DIM], q's dtype
    stride_kn,
    stride_kd,
    tile,
    N_K,
    query_class,  # [BLOCK_M], int32
    sees_all,  # [BLOCK_M], int1
    key_labels_ptr,  # of one image: [N_K], any integer type
    stride_kln,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN_N: tl.constexpr,
    WITHIN_CLASS: tl.constexpr,
    ALIGN: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """q kᵀ of one tile of keys [BLOCK_M, BLOCK_N], not yet scaled; -inf where a key is hidden or does not exist."""
    offs_n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N_K
    k_0 = load_tile(k_base, offs_n, stride_kn, stride_kd, mask_n, 0, HEAD_DIM_0, HEAD_DIM, EVEN_N, ALIGN)
    qk = tl.zeros([q_0.shape[0], BLOCK_N], tl.float32)
    qk = dot(q_0, tl.trans(k_0), qk, INPUT_PRECISION, EMULATE_BF16)
    if HEAD_DIM_1 > 0:
        k_1 = load_tile(k_base, offs_n, stride_kn, stride_kd, mask_n, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, EVEN_N, ALIGN)
        qk = dot(q_1, tl.trans(k_1), qk, INPUT_PRECISION, EMULATE_BF16)
    if WITHIN_CLASS:
        key_class = tl.load(key_labels_ptr + offs_n * stride_kln, mask=mask_n, other=0).to(tl.int32)
        visible = sees_all[:, None] | (query_class[:, None] == key_class[None, :])
        qk = tl.where(visible & mask_n[None, :], qk, float("-inf"))
    elif not EVEN_N:
        qk = tl.where(mask_n[None, :], qk, float("-inf"))
    return qk


@triton.jit
def pass_over_keys(
    acc_0,  # [BLOCK_M, HEAD_DIM_0], float32
    acc_1,  # [BLOCK_M, HEAD_DIM_1], float32
    m_i,  # [BLOCK_M], float32
    l_i,  # [BLOCK_M], float32
    q_0,  # [BLOCK_M, HEAD_DIM_0], q's dtype
    q_1,  # [BLOCK_M, HEAD_DIM_1], q's dtype
    k_base,  # of one image and head: [N_K, HEAD_DIM], q's dtype
    v_base,  # of one image and head: [N_K, HEAD_DIM], q's dtype
    stride_kn,
    stride_kd,
    stride_vn,
    stride_vd,
    N_K,
    qk_scale,
    contrast,
    mean,  # 1/N_K, or with WITHIN_CLASS [BLOCK_M, 1], 1/keys that the row sees
    query_class,  # [BLOCK_M], int32; looked at with WITHIN_CLASS, like the next three
    sees_all,  # [BLOCK_M], int1, rows that see every key
    key_labels_ptr,  # of one image: [N_K], any integer type
    stride_kln,
    tile_max_ptr,  # of one program: [N_TILES, BLOCK_M], bfloat16; written by pass 1 with SKIP
    tile_list_ptr,  # of one program: [N_TILES], int32; read by pass 2 with SKIP
    visits,  # how many tiles are gone through
    PASS: tl.constexpr,  # 1 finds m_i and l_i, and acc unless CONTRAST; 2 finds acc from them
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILE_N: tl.constexpr,  # keys of a tile as tile_max and tile_list count them; BLOCK_N in pass 2
    EVEN_N: tl.constexpr,
    CONTRAST: tl.constexpr,
    SKIP: tl.constexpr,
    WITHIN_CLASS: tl.constexpr,
    ALIGN: tl.constexpr,  # elements that the strides of rows are multiples of
    INPUT_PRECISION: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """Go through tiles of keys once; gives acc_0, acc_1, m_i and l_i."""
    if PASS == 2:
        inverse = 1.0 / l_i
        level = l_i
        if WITHIN_CLASS:
            level = tl.reshape(l_i[:, None] * mean, [BLOCK_M])
    tile = 0
    if PASS == 2 and SKIP:
        tile = tl.load(tile_list_ptr)
    for visit in range(visits):
        next_tile = visit + 1
        if PASS == 2 and SKIP:
            # A visit early: loads from an address that is still being read could not be in flight meanwhile.
            next_tile = tl.load(tile_list_ptr + tl.minimum(visit + 1, visits - 1))
        qk = _scores(
            q_0,
            q_1,
            k_base,
            stride_kn,
            stride_kd,
            tile,
            N_K,
            query_class,
            sees_all,
            key_labels_ptr,
            stride_kln,
            HEAD_DIM,
            HEAD_DIM_0,
            HEAD_DIM_1,
            BLOCK_N,
            EVEN_N,
            WITHIN_CLASS,
            ALIGN,
            INPUT_PRECISION,
            EMULATE_BF16,
        )
        if PASS == 1:
            if SKIP:
                # Of each tile that the second pass could visit: a step here may hold several.
                PARTS: tl.constexpr = BLOCK_N // TILE_N
                tile_maxima = tl.max(tl.reshape(qk, [BLOCK_M, PARTS, TILE_N]), 2) * qk_scale
                m_ij = tl.max(tile_maxima, 1)
                # bfloat16, rounded up: a bound that is a little high only skips a little less.
                raised = tl.maximum(tile_maxima * (1 + 1 / 128), tile_maxima * (1 - 1 / 128))
                tiles = tile * PARTS + tl.arange(0, PARTS)[None, :]
                ptrs = tile_max_ptr + tiles * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
                tl.store(ptrs, raised.to(tl.bfloat16), mask=tiles * TILE_N < N_K)
            else:
                m_ij = tl.max(qk, 1) * qk_scale
            m_ij = tl.maximum(m_i, m_ij)
            # A row that has seen no key yet keeps -inf, and exp2(-inf - 0) is 0.
            base = tl.where(m_ij == float("-inf"), 0.0, m_ij) if WITHIN_CLASS else m_ij
            p = tl.exp2(tl.fma(qk, qk_scale, -base[:, None]))
            alpha = tl.exp2(m_i - base)
            l_i = l_i * alpha + tl.sum(p, 1)
            m_i = m_ij
        else:
            e = tl.exp2(tl.fma(qk, qk_scale, -m_i[:, None]))
            # The difference from 1/N is rounded once, and multiplied: a flat row's is 0 at every contrast.
            if WITHIN_CLASS:
                # That of a class's only key is 0 whatever its exponential. (Without classes a register too many.)
                difference = (e - level[:, None]) * inverse[:, None]
                p = tl.clamp(tl.fma(difference, contrast, mean), 0.0, 1.0)
                p = tl.where(qk == float("-inf"), 0.0, p)
            else:
                difference = tl.fma(e, inverse[:, None], -mean)
                p = tl.clamp(tl.fma(difference, contrast, mean), 0.0, 1.0)
        if PASS == 2 or not CONTRAST:
            offs_n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            mask_n = offs_n < N_K
            v_0 = load_tile(v_base, offs_n, stride_vn, stride_vd, mask_n, 0, HEAD_DIM_0, HEAD_DIM, EVEN_N, ALIGN)
            p = round_to(p, v_0.dtype, EMULATE_BF16)
            acc_0 = dot(p, v_0, acc_0 * alpha[:, None] if PASS == 1 else acc_0, INPUT_PRECISION, EMULATE_BF16)
            if HEAD_DIM_1 > 0:
                v_1 = load_tile(
                    v_base, offs_n, stride_vn, stride_vd, mask_n, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, EVEN_N, ALIGN
                )
                acc_1 = dot(p, v_1, acc_1 * alpha[:, None] if PASS == 1 else acc_1, INPUT_PRECISION, EMULATE_BF16)
        tile = next_tile
    return acc_0, acc_1, m_i, l_i
