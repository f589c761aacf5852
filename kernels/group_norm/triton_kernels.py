"""Group normalisation with SiLU by Triton, for contiguous and for channels-last tensors alike.

A program holds a tile of positions and channels in registers, so that its statistics are those of two passes over one
reading. Where one program can take a group alone there is one launch; otherwise a first launch leaves mean and squared
deviations of every chunk of positions, and each program of a second merges its groups' chunks, always in the same
order, before it writes its own chunk. No atomics, so two runs agree bit for bit.

B batch, C channels, G groups, P positions. One program does GROUPS adjoining groups of CHANNELS channels each; HELD is
the power of two that holds them.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_tile_ops import narrowed

_SIZES = ("groups", "blocks", "chunks")


@triton.jit
def _per_group(of_column, owns):
    """Sums [HELD] over the columns of each group."""
    return tl.sum(tl.where(owns, of_column[:, None], 0.0), 0)


@triton.jit
def _per_column(of_group, owns):
    """The value [COLUMNS] of the group that each column belongs to."""
    return tl.sum(tl.where(owns, of_group[None, :], 0.0), 1)


@triton.jit
def _owners(column, CHANNELS: tl.constexpr, HELD: tl.constexpr, COLUMNS: tl.constexpr):
    """Which of the program's groups each column of the tile at ``column`` belongs to: [COLUMNS, HELD]."""
    return ((column + tl.arange(0, COLUMNS)) // CHANNELS)[:, None] == tl.arange(0, HELD)[None, :]


@triton.jit
def _pointers(base, row_stride, column_stride, start, column, POSITIONS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of the tile at position ``start`` and channel ``column``. Offsets within a tile are 32-bit, its own is not."""
    base += tl.cast(start, tl.int64) * row_stride + tl.cast(column, tl.int64) * column_stride
    return base + tl.arange(0, POSITIONS)[:, None] * row_stride + tl.arange(0, COLUMNS)[None, :] * column_stride


@triton.jit
def _read(x, x_row, x_column, start, column, positions, limit, POSITIONS: tl.constexpr, COLUMNS: tl.constexpr):
    """The float32 tile [POSITIONS, COLUMNS], 0 past the edges, and where it lies within them."""
    rows = start + tl.arange(0, POSITIONS)
    columns = column + tl.arange(0, COLUMNS)
    member = (rows < positions)[:, None] & (columns < limit)[None, :]
    pointers = _pointers(x, x_row, x_column, start, column, POSITIONS, COLUMNS)
    return tl.load(pointers, mask=member, other=0.0).to(tl.float32), member


@triton.jit
def _tile_moments(x, member, owns, count):
    """Mean and sum of squared deviations of each group in a tile: two passes, corrected by the deviations' sum."""
    mean = _per_group(tl.sum(x, 0), owns) / count
    deviation = tl.where(member, x - _per_column(mean, owns)[None, :], 0.0)
    rest = _per_group(tl.sum(deviation, 0), owns)
    squares = _per_group(tl.sum(deviation * deviation, 0), owns)
    correction = rest / count
    return mean + correction, tl.maximum(squares - rest * correction, 0.0)


@triton.jit
def _moments(
    x,
    x_row,
    x_column,
    first,
    last,
    limit,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Mean and sum of squared deviations of each group over the positions first..last-1, merged tile by tile."""
    count = 0.0
    mean = tl.zeros([HELD], tl.float32)
    squares = tl.zeros([HELD], tl.float32)
    for start in range(first, last, POSITIONS):
        for column in range(0, GROUPS * CHANNELS, COLUMNS):
            tile, member = _read(x, x_row, x_column, start, column, last, limit, POSITIONS, COLUMNS)
            height = tl.minimum(last - start, POSITIONS).to(tl.float32)
            part = height * tl.minimum(CHANNELS - column, COLUMNS)
            owns = _owners(column, CHANNELS, HELD, COLUMNS)
            tile_mean, tile_squares = _tile_moments(tile, member, owns, part)
            share = tl.div_rn(part, count + part)
            step = tile_mean - mean
            squares += tile_squares + step * step * (count * share)
            mean += step * share
            count += part
    return mean, squares


@triton.jit
def _write(
    x,
    member,
    owns,
    mean,
    scale,
    out,
    out_row,
    out_column,
    weight,
    bias,
    start,
    column,
    limit,
    POSITIONS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """Normalise the tile by its groups' mean and 1/deviation and store it."""
    columns = column + tl.arange(0, COLUMNS)
    of_column = _per_column(scale, owns) * tl.load(weight + columns, mask=columns < limit, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=columns < limit, other=0.0).to(tl.float32)
    y = (x - _per_column(mean, owns)[None, :]) * of_column[None, :] + shift[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    pointers = _pointers(out, out_row, out_column, start, column, POSITIONS, COLUMNS)
    tl.store(pointers, narrowed(y, out.dtype.element_ty, EMULATE), mask=member)


@triton.jit
def _write_chunk(
    x,
    out,
    weight,
    bias,
    x_row,
    x_column,
    out_row,
    out_column,
    first,
    last,
    limit,
    mean,
    scale,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE: tl.constexpr,
):
    for start in range(first, last, POSITIONS):
        for column in range(0, GROUPS * CHANNELS, COLUMNS):
            tile, member = _read(x, x_row, x_column, start, column, last, limit, POSITIONS, COLUMNS)
            owns = _owners(column, CHANNELS, HELD, COLUMNS)
            _write(
                tile,
                member,
                owns,
                mean,
                scale,
                out,
                out_row,
                out_column,
                weight,
                bias,
                start,
                column,
                limit,
                POSITIONS,
                COLUMNS,
                SILU,
                EMULATE,
            )


@triton.jit
def _share(groups, blocks, chunks, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, ALIGN: tl.constexpr):
    """This program's image, chunk and first group, and how many channels it does."""
    program = tl.program_id(0)
    first_group = (program % blocks) * GROUPS
    chunk = (program // blocks) % chunks
    image = (program // blocks // chunks).to(tl.int64)
    limit = tl.multiple_of(tl.minimum(groups - first_group, GROUPS) * CHANNELS, ALIGN)
    return image, chunk, first_group, limit


@triton.jit(do_not_specialize=_SIZES)
def group_norm_kernel(
    x,
    out,
    weight,
    bias,
    x_batch,
    x_row,
    x_column,
    out_batch,
    out_row,
    out_column,
    groups,
    blocks,
    positions,
    eps,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    WHOLE: tl.constexpr,
    ALIGN: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """Whole groups of one image; with WHOLE they are one tile, which is read once."""
    image, _, first_group, limit = _share(groups, blocks, 1, GROUPS, CHANNELS, ALIGN)
    first_channel = first_group * CHANNELS
    x += image * x_batch + first_channel.to(tl.int64) * x_column
    out += image * out_batch + first_channel.to(tl.int64) * out_column
    weight += first_channel
    bias += first_channel
    total = tl.cast(positions, tl.float32) * CHANNELS
    if WHOLE:
        tile, member = _read(x, x_row, x_column, 0, 0, positions, limit, POSITIONS, COLUMNS)
        owns = _owners(0, CHANNELS, HELD, COLUMNS)
        mean, squares = _tile_moments(tile, member, owns, total)
        scale = tl.div_rn(1.0, tl.sqrt_rn(squares / total + eps))
        _write(
            tile,
            member,
            owns,
            mean,
            scale,
            out,
            out_row,
            out_column,
            weight,
            bias,
            0,
            0,
            limit,
            POSITIONS,
            COLUMNS,
            SILU,
            EMULATE,
        )
    else:
        mean, squares = _moments(x, x_row, x_column, 0, positions, limit, GROUPS, CHANNELS, HELD, COLUMNS, POSITIONS)
        scale = tl.div_rn(1.0, tl.sqrt_rn(squares / total + eps))
        _write_chunk(
            x,
            out,
            weight,
            bias,
            x_row,
            x_column,
            out_row,
            out_column,
            0,
            positions,
            limit,
            mean,
            scale,
            GROUPS,
            CHANNELS,
            HELD,
            COLUMNS,
            POSITIONS,
            SILU,
            EMULATE,
        )


@triton.jit(do_not_specialize=_SIZES)
def group_moments_kernel(
    x,
    partials,
    x_batch,
    x_row,
    x_column,
    groups,
    blocks,
    chunks,
    positions,
    chunk_positions,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """First launch: mean and sum of squared deviations of one chunk into partials [B, G, 2, chunks]."""
    image, chunk, first_group, limit = _share(groups, blocks, chunks, GROUPS, CHANNELS, ALIGN)
    x += image * x_batch + (first_group * CHANNELS).to(tl.int64) * x_column
    first = chunk * chunk_positions
    last = tl.minimum(first + chunk_positions, positions)
    mean, squares = _moments(x, x_row, x_column, first, last, limit, GROUPS, CHANNELS, HELD, COLUMNS, POSITIONS)
    held = tl.arange(0, HELD)
    known = held * CHANNELS < limit
    entries = partials + (image * groups + first_group + held) * 2 * chunks + chunk
    tl.store(entries, mean, mask=known)
    tl.store(entries + chunks, squares, mask=known)


@triton.jit(do_not_specialize=_SIZES)
def group_output_kernel(
    x,
    out,
    weight,
    bias,
    partials,
    x_batch,
    x_row,
    x_column,
    out_batch,
    out_row,
    out_column,
    groups,
    blocks,
    chunks,
    positions,
    chunk_positions,
    eps,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HELD: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ALIGN: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """Second launch: merge every chunk's partial, and normalise one chunk."""
    image, chunk, first_group, limit = _share(groups, blocks, chunks, GROUPS, CHANNELS, ALIGN)
    first_channel = first_group * CHANNELS

    held = tl.arange(0, HELD)
    known = held * CHANNELS < limit
    entries = partials + (image * groups + first_group + held) * 2 * chunks
    part = tl.arange(0, CHUNKS)
    valid = known[:, None] & (part < chunks)[None, :]
    sizes = tl.minimum(positions - part * chunk_positions, chunk_positions)
    counts = tl.where(part < chunks, sizes, 0).to(tl.float32) * CHANNELS
    total = tl.cast(positions, tl.float32) * CHANNELS
    # Means are merged as differences from the first one, so that chunks alike merge without rounding.
    pivot = tl.load(entries, mask=known, other=0.0)
    means = tl.load(entries[:, None] + part[None, :], mask=valid, other=0.0)
    squares = tl.load(entries[:, None] + chunks + part[None, :], mask=valid, other=0.0)
    step = tl.where(valid, means - pivot[:, None], 0.0)
    mean = pivot + tl.sum(counts[None, :] * step, 1) / total
    step = tl.where(valid, means - mean[:, None], 0.0)
    variance = tl.sum(squares + counts[None, :] * step * step, 1) / total
    scale = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))

    first = chunk * chunk_positions
    _write_chunk(
        x + image * x_batch + first_channel.to(tl.int64) * x_column,
        out + image * out_batch + first_channel.to(tl.int64) * out_column,
        weight + first_channel,
        bias + first_channel,
        x_row,
        x_column,
        out_row,
        out_column,
        first,
        tl.minimum(first + chunk_positions, positions),
        limit,
        mean,
        scale,
        GROUPS,
        CHANNELS,
        HELD,
        COLUMNS,
        POSITIONS,
        SILU,
        EMULATE,
    )
