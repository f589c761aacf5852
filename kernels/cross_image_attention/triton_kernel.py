"""The fused attention kernel: cross-image attention with contrast and class statistics, exact, in O(N) memory.

One program holds BLOCK_M queries of one image and head. Without contrast it makes one pass over the keys (online
softmax). With contrast the clip needs the final normaliser, so it makes two: the first finds each row's largest
score m_i and sum of exponentials l_i; the second recomputes the scores, and since ``p = e/l_i`` with
``e = exp(s - m_i)``,

    p' = clip(β·(e/l_i - 1/N) + 1/N, 0, 1)

is two multiply-adds a score, the second of which clips. Where β > 1, p' is exactly 0 for every p below (1 - 1/β)/N:
the first pass notes each tile's row maxima, and the second visits only tiles that reach the bound. See
``kernels/README.md``.

In names of strides z is the image, h the head, m the query, n the key and d the column of a head. Columns are held as
two pieces, HEAD_DIM_0 and HEAD_DIM_1 (see ``kernels.head_widths``); where HEAD_DIM_1 is 0 the second is an unused copy.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from kernels.cross_image_attention.triton_pass import pass_over_keys
from kernels.cross_image_attention.triton_statistics import store_partials
from kernels.triton_tile_ops import load_tile, round_to, store_tile

# Tiles whose row maxima are compared at once, and key labels counted at once.
COMPARED_TILES = 16
COUNTED_LABELS = 1024

# A tile is skipped where its largest exponent lies this far (in powers of two) below the bound, so that no
# rounding of exp2 or of the repeated product can decide whether a probability is 0.
_SKIP_MARGIN = tl.constexpr(1 / 128)
# Tiles are skipped at contrasts above this: nearer to 1 the margin, a share of β - 1, is lost in the rounding of p'.
LEAST_SKIPPING = 1 + 1 / 1024


@triton.jit
def _count_own_keys(
    query_class,  # [BLOCK_M], int32
    key_labels_ptr,  # of one image: [N_K], any integer type
    stride_kln,
    N_K,
    num_classes,
    CHUNK: tl.constexpr,
):
    """How many keys share each query's class: float32 [BLOCK_M]; 0 also for queries of no class."""
    own = tl.zeros_like(query_class).to(tl.float32)
    for c in range(num_classes):
        count = 0.0
        for start in range(0, N_K, CHUNK):
            offs_n = start + tl.arange(0, CHUNK)
            mask_n = offs_n < N_K
            labels = tl.load(key_labels_ptr + offs_n * stride_kln, mask=mask_n, other=0).to(tl.int32)
            count += tl.sum((mask_n & (labels == c)).to(tl.float32), 0)
        own = tl.where(query_class == c, count, own)
    return own


@triton.jit
def _list_tiles(
    tile_max_ptr,  # of one program: [N_TILES, BLOCK_M], bfloat16
    tile_list_ptr,  # of one program: [N_TILES], int32, written
    limit,  # [BLOCK_M], float32
    n_tiles,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the tiles in which some row's maximum passes its limit, in order; gives their number."""
    offs_m = tl.arange(0, BLOCK_M)
    listed = 0
    for start in range(0, n_tiles, CHUNK):
        tile = start + tl.arange(0, CHUNK)
        ptrs = tile_max_ptr + tile[:, None] * BLOCK_M + offs_m[None, :]
        tile_max = tl.load(ptrs, mask=(tile < n_tiles)[:, None], other=float("-inf")).to(tl.float32)
        reaches = tl.max((tile_max > limit[None, :]).to(tl.int32), 1)
        tl.store(tile_list_ptr + listed + tl.cumsum(reaches, 0) - 1, tile, mask=reaches > 0)
        listed += tl.sum(reaches, 0)
    return listed


@triton.jit
def _nonfinite_piece(
    nonfinite_ptr,  # [B·H·(C + 1), HEAD_DIM], float32
    owner,  # [BLOCK_M], int64: each query's row of it
    mask_m,  # [BLOCK_M], int1
    OFFSET: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    offs_d = OFFSET + tl.arange(0, WIDTH)
    mask = mask_m[:, None] & (offs_d < HEAD_DIM)[None, :]
    return tl.load(nonfinite_ptr + owner[:, None] * HEAD_DIM + offs_d[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["H", "N_Q", "N_K", "num_classes"])
def attention_kernel(
    q_ptr,  # [B, H, N_Q, HEAD_DIM], float16, bfloat16 or float32, as k, v and out are
    k_ptr,  # [B, H, N_K, HEAD_DIM]
    v_ptr,  # [B, H, N_K, HEAD_DIM]
    out_ptr,  # [B, H, N_Q, HEAD_DIM], written
    query_labels_ptr,  # [B, N_Q], any integer type; None without STATISTICS, like the next
    key_labels_ptr,  # [B, N_K], any integer type
    tile_max_ptr,  # [B·H, M_TILES, N_TILES, BLOCK_M], bfloat16, scratch; None without SKIP, like the next two
    tile_lists_ptr,  # [B·H, M_TILES, N_TILES], int32, scratch
    visited_ptr,  # [B·H, M_TILES], int32, written
    nonfinite_ptr,  # [B, H, C + 1, HEAD_DIM], float32: sums of what v lacks, by class and of all; for WITHIN_CLASS
    partial_counts_ptr,  # [B·H, S, C], float32, written; None without STATISTICS, like the next
    partial_moments_ptr,  # [B·H, S, C, 2, HEAD_DIM], float32, written
    stride_qz,
    stride_qh,
    stride_qm,
    stride_qd,
    stride_kz,
    stride_kh,
    stride_kn,
    stride_kd,
    stride_vz,
    stride_vh,
    stride_vn,
    stride_vd,
    stride_oz,
    stride_oh,
    stride_om,
    stride_od,
    stride_qlz,  # of the queries' labels
    stride_qlm,
    stride_klz,  # of the keys' labels
    stride_kln,
    H,
    N_Q,
    N_K,
    num_classes,
    qk_scale,  # log2(e)/√D: exponentials are taken in base 2
    contrast,  # β
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_0: tl.constexpr,
    HEAD_DIM_1: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EVEN_N: tl.constexpr,  # BLOCK_N divides N_K
    FIRST_N: tl.constexpr,  # keys at once in a first pass that finds no output, a multiple of BLOCK_N
    EVEN_FIRST_N: tl.constexpr,
    CONTRAST: tl.constexpr,  # β is not 1
    SKIP: tl.constexpr,  # leave out tiles that contribute nothing
    STATISTICS: tl.constexpr,
    WITHIN_CLASS: tl.constexpr,
    ALIGN: tl.constexpr,  # elements that strides of rows and heads of q, k and v are multiples of
    ALIGN_OUT: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
    COMPARED: tl.constexpr,
    COUNTED: tl.constexpr,
    GROUP: tl.constexpr,  # rows of one partial; divides BLOCK_M
):
    # This program's image, head and queries.
    start_m = tl.program_id(0)
    m_tiles = tl.num_programs(0)
    off_hz = tl.program_id(1)
    off_z = (off_hz // H).to(tl.int64)
    off_h = off_hz % H
    n_tiles = tl.cdiv(N_K, BLOCK_N)
    program = off_hz * m_tiles + start_m
    offs_m = start_m * BLOCK_M + tl.arange(0, BLOCK_M)
    mask_m = offs_m < N_Q
    q_base = q_ptr + off_z * stride_qz + tl.multiple_of(off_h * stride_qh, ALIGN)
    k_base = k_ptr + off_z * stride_kz + tl.multiple_of(off_h * stride_kh, ALIGN)
    v_base = v_ptr + off_z * stride_vz + tl.multiple_of(off_h * stride_vh, ALIGN)
    q_0 = load_tile(q_base, offs_m, stride_qm, stride_qd, mask_m, 0, HEAD_DIM_0, HEAD_DIM, False, ALIGN)
    q_1 = q_0
    if HEAD_DIM_1 > 0:
        q_1 = load_tile(q_base, offs_m, stride_qm, stride_qd, mask_m, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, False, ALIGN)

    # Which keys each query sees, and 1 over their number.
    if STATISTICS:
        query_labels_ptr += off_z * stride_qlz
        key_labels_ptr += off_z * stride_klz
    query_class = tl.arange(0, BLOCK_M)
    sees_all = mask_m
    mean = 1.0 / N_K
    if WITHIN_CLASS:
        query_class = tl.load(query_labels_ptr + offs_m * stride_qlm, mask=mask_m, other=0).to(tl.int32)
        own = _count_own_keys(query_class, key_labels_ptr, stride_kln, N_K, num_classes, COUNTED)
        sees_all = own == 0.0
        mean = (1.0 / tl.where(sees_all, N_K.to(tl.float32), own))[:, None]

    # Pass 1: each row's maximum and sum of exponentials, and without contrast the output too.
    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc_0 = tl.zeros([BLOCK_M, HEAD_DIM_0], tl.float32)
    acc_1 = acc_0
    if HEAD_DIM_1 > 0:
        acc_1 = tl.zeros([BLOCK_M, HEAD_DIM_1], tl.float32)
    tile_list_ptr = tile_lists_ptr
    if SKIP:
        tile_max_ptr += program.to(tl.int64) * n_tiles * BLOCK_M
        tile_list_ptr += program.to(tl.int64) * n_tiles
    acc_0, acc_1, m_i, l_i = pass_over_keys(
        acc_0,
        acc_1,
        m_i,
        l_i,
        q_0,
        q_1,
        k_base,
        v_base,
        stride_kn,
        stride_kd,
        stride_vn,
        stride_vd,
        N_K,
        qk_scale,
        contrast,
        mean,
        query_class,
        sees_all,
        key_labels_ptr,
        stride_kln,
        tile_max_ptr,
        tile_list_ptr,
        tl.cdiv(N_K, FIRST_N),
        1,
        HEAD_DIM,
        HEAD_DIM_0,
        HEAD_DIM_1,
        BLOCK_M,
        FIRST_N,
        BLOCK_N,
        EVEN_FIRST_N,
        CONTRAST,
        SKIP,
        WITHIN_CLASS,
        ALIGN,
        INPUT_PRECISION,
        EMULATE_BF16,
    )
    if CONTRAST:
        # The clip turns NaN into 0; a row whose scores hold one starts from NaN instead.
        lost = (l_i - l_i)[:, None]
        acc_0 += lost
        if HEAD_DIM_1 > 0:
            acc_1 += lost

        # The list of tiles in which some probability is above (1 - 1/β)/N.
        visits = n_tiles
        if SKIP:
            limit = m_i + tl.log2((1.0 - 1.0 / contrast) * tl.reshape(l_i[:, None] * mean, [BLOCK_M])) - _SKIP_MARGIN
            limit = tl.where(mask_m, limit, float("inf"))
            tl.debug_barrier()  # maxima are read by other threads than wrote them, and so is the list
            visits = _list_tiles(tile_max_ptr, tile_list_ptr, limit, n_tiles, BLOCK_M, COMPARED)
            tl.store(visited_ptr + program, visits)
            tl.debug_barrier()

        # Pass 2: the scores again, their probabilities with contrast, and the output.
        acc_0, acc_1, m_i, l_i = pass_over_keys(
            acc_0,
            acc_1,
            m_i,
            l_i,
            q_0,
            q_1,
            k_base,
            v_base,
            stride_kn,
            stride_kd,
            stride_vn,
            stride_vd,
            N_K,
            qk_scale,
            contrast,
            mean,
            query_class,
            sees_all,
            key_labels_ptr,
            stride_kln,
            tile_max_ptr,
            tile_list_ptr,
            visits,
            2,
            HEAD_DIM,
            HEAD_DIM_0,
            HEAD_DIM_1,
            BLOCK_M,
            BLOCK_N,
            BLOCK_N,
            EVEN_N,
            CONTRAST,
            SKIP,
            WITHIN_CLASS,
            ALIGN,
            INPUT_PRECISION,
            EMULATE_BF16,
        )
    else:
        acc_0 = acc_0 / l_i[:, None]
        if HEAD_DIM_1 > 0:
            acc_1 = acc_1 / l_i[:, None]

    if WITHIN_CLASS:
        # What is not finite among the values that a row sees: v itself holds 0 there.
        owner = off_hz.to(tl.int64) * (num_classes + 1) + tl.where(sees_all, num_classes, query_class)
        acc_0 += _nonfinite_piece(nonfinite_ptr, owner, mask_m, 0, HEAD_DIM_0, HEAD_DIM)
        if HEAD_DIM_1 > 0:
            acc_1 += _nonfinite_piece(nonfinite_ptr, owner, mask_m, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM)

    # The output, rounded once.
    out_base = out_ptr + off_z * stride_oz + tl.multiple_of(off_h * stride_oh, ALIGN_OUT)
    out_0 = round_to(acc_0, out_ptr.dtype.element_ty, EMULATE_BF16)
    store_tile(out_base, out_0, offs_m, stride_om, stride_od, mask_m, 0, HEAD_DIM_0, HEAD_DIM, ALIGN_OUT)
    if HEAD_DIM_1 > 0:
        out_1 = round_to(acc_1, out_ptr.dtype.element_ty, EMULATE_BF16)
        store_tile(out_base, out_1, offs_m, stride_om, stride_od, mask_m, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, ALIGN_OUT)

    if STATISTICS:
        # Partial statistics of the output's rows.
        query_slots = tl.cdiv(N_Q, GROUP)
        key_slots = tl.cdiv(N_K, GROUP)
        slot = off_hz * (query_slots + key_slots)
        query_labels = tl.load(query_labels_ptr + offs_m * stride_qlm, mask=mask_m, other=0)
        store_partials(
            acc_0,
            acc_1,
            query_labels,
            mask_m,
            partial_counts_ptr,
            partial_moments_ptr,
            slot + start_m * (BLOCK_M // GROUP),
            slot + query_slots,
            num_classes,
            HEAD_DIM,
            HEAD_DIM_0,
            HEAD_DIM_1,
            GROUP,
        )
        # And of the values, shared out among the programs: one more reading of v, from the cache.
        slot += query_slots
        for tile in range(start_m, tl.cdiv(N_K, BLOCK_M), m_tiles):
            offs_n = tile * BLOCK_M + tl.arange(0, BLOCK_M)
            mask_n = offs_n < N_K
            key_labels = tl.load(key_labels_ptr + offs_n * stride_kln, mask=mask_n, other=0)
            v_0 = load_tile(v_base, offs_n, stride_vn, stride_vd, mask_n, 0, HEAD_DIM_0, HEAD_DIM, False, ALIGN)
            v_0 = v_0.to(tl.float32)
            v_1 = v_0
            if HEAD_DIM_1 > 0:
                v_1 = load_tile(
                    v_base, offs_n, stride_vn, stride_vd, mask_n, HEAD_DIM_0, HEAD_DIM_1, HEAD_DIM, False, ALIGN
                )
                v_1 = v_1.to(tl.float32)
            store_partials(
                v_0,
                v_1,
                key_labels,
                mask_n,
                partial_counts_ptr,
                partial_moments_ptr,
                slot + tile * (BLOCK_M // GROUP),
                slot + key_slots,
                num_classes,
                HEAD_DIM,
                HEAD_DIM_0,
                HEAD_DIM_1,
                GROUP,
            )
