"""The fused attention kernel: cross-image attention with contrast and class statistics, exact, in O(N) memory.

One program holds ROWS queries of one image and head. Without contrast it makes one pass over the keys (online
softmax). With contrast the clip needs the final normaliser, so it makes two: the first finds each row's largest
score m and sum of exponentials l; the second recomputes the scores, and since ``p = e/l`` with ``e = exp(s - m)``,

    p' = clip(β·(e/l - 1/N) + 1/N, 0, 1)

is two multiply-adds a score, the second of which clips. Where β > 1, p' is exactly 0 for every p below (1 - 1/β)/N:
the first pass notes each tile's row maxima, and the second visits only tiles that reach the bound. See
``kernels/README.md``.

B batch, H heads, Nq queries, Nk keys, D head width, C classes.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from kernels.cross_image_attention.triton_statistics import merge_partials, store_partials
from kernels.triton_tile_ops import dot, load_tile, narrowed

# Tiles whose row maxima are compared at once, and key labels counted at once.
COMPARED_TILES = 16
COUNTED_LABELS = 1024

# A tile is skipped where its largest exponent lies this far (in powers of two) below the bound, so that no
# rounding of exp2 or of the repeated product can decide whether a probability is 0.
_SKIP_MARGIN = tl.constexpr(1 / 128)
# Tiles are skipped at contrasts above this: nearer to 1 the margin, a share of β - 1, is lost in the rounding of p'.
LEAST_SKIPPING = 1 + 1 / 1024


@triton.jit
def _scores(
    q_first,
    q_second,
    k_base,
    tile,
    k_row,
    k_column,
    keys,
    row_labels,
    sees_all,
    key_labels,
    label_row,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,
    RESTRICT: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """q kᵀ of one tile of keys [ROWS, COLUMNS], not yet scaled; -inf where a key is hidden or does not exist."""
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < keys
    k_first = load_tile(k_base, columns, k_row, k_column, exists, 0, FIRST, D, EVEN)
    scores = dot(q_first, tl.trans(k_first), tl.zeros([q_first.shape[0], COLUMNS], tl.float32), PRECISION, EMULATE)
    if SECOND > 0:
        k_second = load_tile(k_base, columns, k_row, k_column, exists, FIRST, SECOND, D, EVEN)
        scores = dot(q_second, tl.trans(k_second), scores, PRECISION, EMULATE)
    if RESTRICT:
        column_labels = tl.load(key_labels + columns * label_row, mask=exists, other=0).to(tl.int32)
        visible = sees_all[:, None] | (row_labels[:, None] == column_labels[None, :])
        scores = tl.where(visible & exists[None, :], scores, float("-inf"))
    elif not EVEN:
        scores = tl.where(exists[None, :], scores, float("-inf"))
    return scores


@triton.jit
def _own_keys(row_labels, key_labels, label_row, keys, classes, CHUNK: tl.constexpr):
    """How many keys share each row's class: float32 [ROWS]; 0 also for rows of no class."""
    own = tl.zeros_like(row_labels).to(tl.float32)
    for c in range(classes):
        count = 0.0
        for start in range(0, keys, CHUNK):
            columns = start + tl.arange(0, CHUNK)
            exists = columns < keys
            labels = tl.load(key_labels + columns * label_row, mask=exists, other=0).to(tl.int32)
            count += tl.sum((exists & (labels == c)).to(tl.float32), 0)
        own = tl.where(row_labels == c, count, own)
    return own


@triton.jit
def _list_tiles(maxima, tile_list, limit, tiles, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """Write the tiles in which some row's maximum passes its limit, in order; gives their number."""
    lanes = tl.arange(0, ROWS)
    listed = 0
    for start in range(0, tiles, CHUNK):
        tile = start + tl.arange(0, CHUNK)
        pointers = maxima + tile[:, None] * ROWS + lanes[None, :]
        largest = tl.load(pointers, mask=(tile < tiles)[:, None], other=float("-inf")).to(tl.float32)
        reaches = tl.max((largest > limit[None, :]).to(tl.int32), 1)
        tl.store(tile_list + listed + tl.cumsum(reaches, 0) - 1, tile, mask=reaches > 0)
        listed += tl.sum(reaches, 0)
    return listed


@triton.jit(do_not_specialize=["heads", "queries", "keys", "classes"])
def attention_kernel(
    q,
    k,
    v,
    out,
    query_labels,
    key_labels,
    maxima,
    tile_lists,
    visited,
    spoiled,
    counts,
    moments,
    tickets,
    query_count,
    query_mean,
    query_variance,
    key_count,
    key_mean,
    key_variance,
    q_batch,
    q_head,
    q_row,
    q_column,
    k_batch,
    k_head,
    k_row,
    k_column,
    v_batch,
    v_head,
    v_row,
    v_column,
    out_batch,
    out_head,
    out_row,
    out_column,
    query_label_batch,
    query_label_row,
    key_label_batch,
    key_label_row,
    heads,
    queries,
    keys,
    classes,
    exponent_scale,
    contrast,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,
    CONTRAST: tl.constexpr,
    SKIP: tl.constexpr,
    STATISTICS: tl.constexpr,
    RESTRICT: tl.constexpr,
    ALIGN: tl.constexpr,
    OUT_ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATE: tl.constexpr,
    COMPARED: tl.constexpr,
    COUNTED: tl.constexpr,
    MERGED: tl.constexpr,
):
    block = tl.program_id(0)
    blocks = tl.num_programs(0)
    image_head = tl.program_id(1)
    image = (image_head // heads).to(tl.int64)
    head = image_head % heads
    tiles = tl.cdiv(keys, COLUMNS)
    program = image_head * blocks + block

    lanes = tl.arange(0, ROWS)
    rows = block * ROWS + lanes
    row_exists = rows < queries
    q_base = q + image * q_batch + tl.multiple_of(head * q_head, ALIGN)
    k_base = k + image * k_batch + tl.multiple_of(head * k_head, ALIGN)
    v_base = v + image * v_batch + tl.multiple_of(head * v_head, ALIGN)
    q_first = load_tile(q_base, rows, q_row, q_column, row_exists, 0, FIRST, D, False)
    q_second = q_first
    if SECOND > 0:
        q_second = load_tile(q_base, rows, q_row, q_column, row_exists, FIRST, SECOND, D, False)

    if STATISTICS:
        query_labels += image * query_label_batch
        key_labels += image * key_label_batch
    row_labels = lanes
    sees_all = row_exists
    mean = 1.0 / keys
    if RESTRICT:
        row_labels = tl.load(query_labels + rows * query_label_row, mask=row_exists, other=0).to(tl.int32)
        own = _own_keys(row_labels, key_labels, key_label_row, keys, classes, COUNTED)
        sees_all = own == 0.0
        mean = (1.0 / tl.where(sees_all, keys.to(tl.float32), own))[:, None]

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    first = tl.zeros([ROWS, FIRST], tl.float32)
    second = first
    if SECOND > 0:
        second = tl.zeros([ROWS, SECOND], tl.float32)

    for tile in range(tiles):
        scores = _scores(
            q_first,
            q_second,
            k_base,
            tile,
            k_row,
            k_column,
            keys,
            row_labels,
            sees_all,
            key_labels,
            key_label_row,
            D,
            FIRST,
            SECOND,
            COLUMNS,
            EVEN,
            RESTRICT,
            PRECISION,
            EMULATE,
        )
        tile_largest = tl.max(scores, 1) * exponent_scale
        if SKIP:
            # bfloat16, rounded up: a bound that is a little high only skips a little less.
            raised = tl.maximum(tile_largest * (1 + 1 / 128), tile_largest * (1 - 1 / 128))
            tl.store(maxima + (program.to(tl.int64) * tiles + tile) * ROWS + lanes, raised.to(tl.bfloat16))
        raised_largest = tl.maximum(largest, tile_largest)
        # A row that has seen no key yet keeps -inf, and exp2(-inf - 0) is 0.
        base = tl.where(raised_largest == float("-inf"), 0.0, raised_largest) if RESTRICT else raised_largest
        exponentials = tl.exp2(tl.fma(scores, exponent_scale, -base[:, None]))
        rescale = tl.exp2(largest - base)
        total = total * rescale + tl.sum(exponentials, 1)
        largest = raised_largest
        if not CONTRAST:
            columns = tile * COLUMNS + tl.arange(0, COLUMNS)
            exists = columns < keys
            v_first = load_tile(v_base, columns, v_row, v_column, exists, 0, FIRST, D, EVEN)
            weights = narrowed(exponentials, v_first.dtype, EMULATE)
            first = dot(weights, v_first, first * rescale[:, None], PRECISION, EMULATE)
            if SECOND > 0:
                v_second = load_tile(v_base, columns, v_row, v_column, exists, FIRST, SECOND, D, EVEN)
                second = dot(weights, v_second, second * rescale[:, None], PRECISION, EMULATE)

    if CONTRAST:
        # The clip turns NaN into 0; a row whose scores hold one starts from NaN instead.
        lost = (total - total)[:, None]
        first += lost
        if SECOND > 0:
            second += lost
        inverse = 1.0 / total
        level = total
        if RESTRICT:
            level = tl.reshape(total[:, None] * mean, [ROWS])
        visits = tiles
        tile_list = tile_lists
        if SKIP:
            limit = largest + tl.log2((1.0 - 1.0 / contrast) * tl.reshape(total[:, None] * mean, [ROWS])) - _SKIP_MARGIN
            limit = tl.where(row_exists, limit, float("inf"))
            tile_list = tile_lists + program.to(tl.int64) * tiles
            tl.debug_barrier()  # maxima are read by other threads than wrote them, and so is the list
            visits = _list_tiles(maxima + program.to(tl.int64) * tiles * ROWS, tile_list, limit, tiles, ROWS, COMPARED)
            tl.store(visited + program, visits)
            tl.debug_barrier()
        for visit in range(visits):
            tile = visit
            if SKIP:
                tile = tl.load(tile_list + visit)
            scores = _scores(
                q_first,
                q_second,
                k_base,
                tile,
                k_row,
                k_column,
                keys,
                row_labels,
                sees_all,
                key_labels,
                key_label_row,
                D,
                FIRST,
                SECOND,
                COLUMNS,
                EVEN,
                RESTRICT,
                PRECISION,
                EMULATE,
            )
            exponentials = tl.exp2(tl.fma(scores, exponent_scale, -largest[:, None]))
            # The difference from 1/N is rounded once, and multiplied: a flat row's is 0 at every contrast.
            if RESTRICT:
                # That of a class's only key is 0 whatever its exponential. (Without classes a register too many.)
                difference = (exponentials - level[:, None]) * inverse[:, None]
            else:
                difference = tl.fma(exponentials, inverse[:, None], -mean)
            p = tl.clamp(tl.fma(difference, contrast, mean), 0.0, 1.0)
            if RESTRICT:
                p = tl.where(scores == float("-inf"), 0.0, p)
            columns = tile * COLUMNS + tl.arange(0, COLUMNS)
            exists = columns < keys
            v_first = load_tile(v_base, columns, v_row, v_column, exists, 0, FIRST, D, EVEN)
            weights = narrowed(p, v_first.dtype, EMULATE)
            first = dot(weights, v_first, first, PRECISION, EMULATE)
            if SECOND > 0:
                v_second = load_tile(v_base, columns, v_row, v_column, exists, FIRST, SECOND, D, EVEN)
                second = dot(weights, v_second, second, PRECISION, EMULATE)
    else:
        first = first / total[:, None]
        if SECOND > 0:
            second = second / total[:, None]

    if RESTRICT:
        # What is not finite among the values that a row sees: v itself holds 0 there.
        owner = image_head.to(tl.int64) * (classes + 1) + tl.where(sees_all, classes, row_labels)
        columns = tl.arange(0, FIRST)
        held = row_exists[:, None] & (columns < D)[None, :]
        first += tl.load(spoiled + owner[:, None] * D + columns[None, :], mask=held, other=0.0)
        if SECOND > 0:
            columns = FIRST + tl.arange(0, SECOND)
            held = row_exists[:, None] & (columns < D)[None, :]
            second += tl.load(spoiled + owner[:, None] * D + columns[None, :], mask=held, other=0.0)

    out_base = out + image * out_batch + tl.multiple_of(head * out_head, OUT_ALIGN)
    columns = tl.arange(0, FIRST)
    pointers = out_base + rows[:, None] * out_row + columns[None, :] * out_column
    tl.store(
        pointers, narrowed(first, out.dtype.element_ty, EMULATE), mask=row_exists[:, None] & (columns < D)[None, :]
    )
    if SECOND > 0:
        columns = FIRST + tl.arange(0, SECOND)
        pointers = out_base + rows[:, None] * out_row + columns[None, :] * out_column
        tl.store(
            pointers, narrowed(second, out.dtype.element_ty, EMULATE), mask=row_exists[:, None] & (columns < D)[None, :]
        )

    if STATISTICS:
        slot = image_head * (blocks + tiles)
        labels = tl.load(query_labels + rows * query_label_row, mask=row_exists, other=0)
        store_partials(first, second, labels, row_exists, counts, moments, slot + block, classes, D, FIRST, SECOND)
        # The tiles of values are shared out among the programs: together one more reading of v, from the cache.
        for tile in range(block, tiles, blocks):
            value_rows = tile * COLUMNS + tl.arange(0, COLUMNS)
            value_exists = value_rows < keys
            value_labels = tl.load(key_labels + value_rows * key_label_row, mask=value_exists, other=0)
            values = load_tile(v_base, value_rows, v_row, v_column, value_exists, 0, FIRST, D, EVEN).to(tl.float32)
            more_values = values
            if SECOND > 0:
                more_values = load_tile(v_base, value_rows, v_row, v_column, value_exists, FIRST, SECOND, D, EVEN).to(
                    tl.float32
                )
            store_partials(
                values,
                more_values,
                value_labels,
                value_exists,
                counts,
                moments,
                slot + blocks + tile,
                classes,
                D,
                FIRST,
                SECOND,
            )
        tl.debug_barrier()  # every thread's partials are written before the ticket says so
        if tl.atomic_add(tickets + image_head, 1, sem="acq_rel") == blocks - 1:
            merge_partials(
                counts,
                moments,
                slot,
                blocks,
                query_count,
                query_mean,
                query_variance,
                image_head,
                heads,
                classes,
                D,
                FIRST,
                SECOND,
                MERGED,
            )
            merge_partials(
                counts,
                moments,
                slot + blocks,
                tiles,
                key_count,
                key_mean,
                key_variance,
                image_head,
                heads,
                classes,
                D,
                FIRST,
                SECOND,
                MERGED,
            )
