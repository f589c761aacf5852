"""Group normalisation with SiLU by Triton, for contiguous and for channels-last tensors alike.

A program holds a tile of positions and channels in registers, so that its statistics are those of two passes over one
reading. Where one program can take a group alone there is one launch; otherwise a first launch leaves mean and squared
deviations of every chunk of positions, and each program of a second merges its groups' chunks, always in the same
order, before it writes its own chunk. No atomics, so two runs agree bit for bit.

B batch, C channels, G groups, P positions; M2 is a sum of squared deviations. In names of strides b is the image, p the
position and c the channel.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_tile_ops import round_to

_SIZES = ("G", "g_tiles", "num_chunks")


@triton.jit
def _per_group(by_channel, owns):
    """Sums [BLOCK_G] over the channels of each group, of by_channel [BLOCK_C]."""
    return tl.sum(tl.where(owns, by_channel[:, None], 0.0), 0)


@triton.jit
def _per_channel(by_group, owns):
    """The value [BLOCK_C] of the group that each channel belongs to, of by_group [BLOCK_G]."""
    return tl.sum(tl.where(owns, by_group[None, :], 0.0), 1)


@triton.jit
def _owners(start_c, GROUP_CHANNELS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """Which of the program's groups each channel of the tile at ``start_c`` belongs to: [BLOCK_C, BLOCK_G]."""
    return ((start_c + tl.arange(0, BLOCK_C)) // GROUP_CHANNELS)[:, None] == tl.arange(0, BLOCK_G)[None, :]


@triton.jit
def _ptrs(base, stride_p, stride_c, start_p, start_c, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of the tile at position start_p and channel start_c. Offsets within a tile are 32-bit, its own is not."""
    base += tl.cast(start_p, tl.int64) * stride_p + tl.cast(start_c, tl.int64) * stride_c
    return base + tl.arange(0, BLOCK_P)[:, None] * stride_p + tl.arange(0, BLOCK_C)[None, :] * stride_c


@triton.jit
def _load(
    x_ptr,  # of one program: [P, num_channels], float16, bfloat16 or float32
    stride_xp,
    stride_xc,
    start_p,
    start_c,
    P,
    num_channels,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The float32 tile [BLOCK_P, BLOCK_C], 0 past the edges, and where it lies within them."""
    offs_p = start_p + tl.arange(0, BLOCK_P)
    offs_c = start_c + tl.arange(0, BLOCK_C)
    mask = (offs_p < P)[:, None] & (offs_c < num_channels)[None, :]
    ptrs = _ptrs(x_ptr, stride_xp, stride_xc, start_p, start_c, BLOCK_P, BLOCK_C)
    return tl.load(ptrs, mask=mask, other=0.0).to(tl.float32), mask


@triton.jit
def _tile_moments(x, mask, owns, count):
    """Mean and sum of squared deviations of each group in a tile: two passes, corrected by the deviations' sum."""
    mean = _per_group(tl.sum(x, 0), owns) / count
    deviation = tl.where(mask, x - _per_channel(mean, owns)[None, :], 0.0)
    rest = _per_group(tl.sum(deviation, 0), owns)
    m2 = _per_group(tl.sum(deviation * deviation, 0), owns)
    correction = rest / count
    return mean + correction, tl.maximum(m2 - rest * correction, 0.0)


@triton.jit
def _moments(
    x_ptr,  # of one program: [P, num_channels], float16, bfloat16 or float32
    stride_xp,
    stride_xc,
    first,
    last,
    num_channels,
    PROGRAM_GROUPS: tl.constexpr,
    GROUP_CHANNELS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Mean and sum of squared deviations of each group over the positions first..last-1, merged tile by tile."""
    count = 0.0
    mean = tl.zeros([BLOCK_G], tl.float32)
    m2 = tl.zeros([BLOCK_G], tl.float32)
    for start_p in range(first, last, BLOCK_P):
        for start_c in range(0, PROGRAM_GROUPS * GROUP_CHANNELS, BLOCK_C):
            tile, mask = _load(x_ptr, stride_xp, stride_xc, start_p, start_c, last, num_channels, BLOCK_P, BLOCK_C)
            height = tl.minimum(last - start_p, BLOCK_P).to(tl.float32)
            part = height * tl.minimum(GROUP_CHANNELS - start_c, BLOCK_C)
            owns = _owners(start_c, GROUP_CHANNELS, BLOCK_G, BLOCK_C)
            tile_mean, tile_m2 = _tile_moments(tile, mask, owns, part)
            share = tl.div_rn(part, count + part)
            delta = tile_mean - mean
            m2 += tile_m2 + delta * delta * (count * share)
            mean += delta * share
            count += part
    return mean, m2


@triton.jit
def _store(
    x,  # [BLOCK_P, BLOCK_C], float32
    mask,  # [BLOCK_P, BLOCK_C], int1
    owns,  # [BLOCK_C, BLOCK_G], int1
    mean,  # [BLOCK_G], float32
    rstd,  # [BLOCK_G], float32
    out_ptr,  # of one program: [P, num_channels], x's dtype, written
    stride_op,
    stride_oc,
    weight_ptr,  # of one program: [num_channels], x's dtype
    bias_ptr,  # of one program: [num_channels], x's dtype
    start_p,
    start_c,
    num_channels,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """Normalise the tile by its groups' mean and 1/deviation and store it."""
    offs_c = start_c + tl.arange(0, BLOCK_C)
    mask_c = offs_c < num_channels
    scale = _per_channel(rstd, owns) * tl.load(weight_ptr + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    shift = tl.load(bias_ptr + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    y = (x - _per_channel(mean, owns)[None, :]) * scale[None, :] + shift[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    ptrs = _ptrs(out_ptr, stride_op, stride_oc, start_p, start_c, BLOCK_P, BLOCK_C)
    tl.store(ptrs, round_to(y, out_ptr.dtype.element_ty, EMULATE_BF16), mask=mask)


@triton.jit
def _store_chunk(
    x_ptr,  # of one program: [P, num_channels], float16, bfloat16 or float32
    out_ptr,  # of one program: [P, num_channels], x's dtype, written
    weight_ptr,  # of one program: [num_channels], x's dtype
    bias_ptr,  # of one program: [num_channels], x's dtype
    stride_xp,
    stride_xc,
    stride_op,
    stride_oc,
    first,
    last,
    num_channels,
    mean,
    rstd,
    PROGRAM_GROUPS: tl.constexpr,
    GROUP_CHANNELS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SILU: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    for start_p in range(first, last, BLOCK_P):
        for start_c in range(0, PROGRAM_GROUPS * GROUP_CHANNELS, BLOCK_C):
            tile, mask = _load(x_ptr, stride_xp, stride_xc, start_p, start_c, last, num_channels, BLOCK_P, BLOCK_C)
            owns = _owners(start_c, GROUP_CHANNELS, BLOCK_G, BLOCK_C)
            _store(
                tile,
                mask,
                owns,
                mean,
                rstd,
                out_ptr,
                stride_op,
                stride_oc,
                weight_ptr,
                bias_ptr,
                start_p,
                start_c,
                num_channels,
                BLOCK_P,
                BLOCK_C,
                SILU,
                EMULATE_BF16,
            )


@triton.jit
def _program_share(
    G, g_tiles, num_chunks, PROGRAM_GROUPS: tl.constexpr, GROUP_CHANNELS: tl.constexpr, ALIGN: tl.constexpr
):
    """This program's image, chunk and first group, and how many channels it does."""
    program = tl.program_id(0)
    off_g = (program % g_tiles) * PROGRAM_GROUPS
    off_chunk = (program // g_tiles) % num_chunks
    off_b = (program // g_tiles // num_chunks).to(tl.int64)
    num_channels = tl.multiple_of(tl.minimum(G - off_g, PROGRAM_GROUPS) * GROUP_CHANNELS, ALIGN)
    return off_b, off_chunk, off_g, num_channels


@triton.jit(do_not_specialize=_SIZES)
def group_norm_kernel(
    x_ptr,  # [B, C, P], float16, bfloat16 or float32
    out_ptr,  # [B, C, P], x's dtype, written
    weight_ptr,  # [C], x's dtype
    bias_ptr,  # [C], x's dtype
    stride_xb,
    stride_xp,
    stride_xc,
    stride_ob,
    stride_op,
    stride_oc,
    G,
    g_tiles,  # programs that share an image's groups
    P,
    eps,
    PROGRAM_GROUPS: tl.constexpr,  # groups of one program
    GROUP_CHANNELS: tl.constexpr,  # C/G
    BLOCK_G: tl.constexpr,  # the power of two that holds PROGRAM_GROUPS
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    ONE_TILE: tl.constexpr,
    ALIGN: tl.constexpr,  # channels that every program's number of them is a multiple of
    SILU: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """Whole groups of one image; with ONE_TILE they are one tile, which is read once."""
    off_b, _, off_g, num_channels = _program_share(G, g_tiles, 1, PROGRAM_GROUPS, GROUP_CHANNELS, ALIGN)
    off_c = off_g * GROUP_CHANNELS
    x_ptr += off_b * stride_xb + off_c.to(tl.int64) * stride_xc
    out_ptr += off_b * stride_ob + off_c.to(tl.int64) * stride_oc
    weight_ptr += off_c
    bias_ptr += off_c
    total = tl.cast(P, tl.float32) * GROUP_CHANNELS
    if ONE_TILE:
        tile, mask = _load(x_ptr, stride_xp, stride_xc, 0, 0, P, num_channels, BLOCK_P, BLOCK_C)
        owns = _owners(0, GROUP_CHANNELS, BLOCK_G, BLOCK_C)
        mean, m2 = _tile_moments(tile, mask, owns, total)
        rstd = tl.div_rn(1.0, tl.sqrt_rn(m2 / total + eps))
        _store(
            tile,
            mask,
            owns,
            mean,
            rstd,
            out_ptr,
            stride_op,
            stride_oc,
            weight_ptr,
            bias_ptr,
            0,
            0,
            num_channels,
            BLOCK_P,
            BLOCK_C,
            SILU,
            EMULATE_BF16,
        )
    else:
        mean, m2 = _moments(
            x_ptr, stride_xp, stride_xc, 0, P, num_channels, PROGRAM_GROUPS, GROUP_CHANNELS, BLOCK_G, BLOCK_C, BLOCK_P
        )
        rstd = tl.div_rn(1.0, tl.sqrt_rn(m2 / total + eps))
        _store_chunk(
            x_ptr,
            out_ptr,
            weight_ptr,
            bias_ptr,
            stride_xp,
            stride_xc,
            stride_op,
            stride_oc,
            0,
            P,
            num_channels,
            mean,
            rstd,
            PROGRAM_GROUPS,
            GROUP_CHANNELS,
            BLOCK_G,
            BLOCK_C,
            BLOCK_P,
            SILU,
            EMULATE_BF16,
        )


@triton.jit(do_not_specialize=_SIZES)
def group_moments_kernel(
    x_ptr,  # [B, C, P], float16, bfloat16 or float32
    partials_ptr,  # [B, G, 2, chunks], float32: mean and M2
    stride_xb,
    stride_xp,
    stride_xc,
    G,
    g_tiles,  # programs that share an image's groups
    num_chunks,  # programs that share an image's positions
    P,
    chunk_size,  # positions of one program
    PROGRAM_GROUPS: tl.constexpr,  # groups of one program
    GROUP_CHANNELS: tl.constexpr,  # C/G
    BLOCK_G: tl.constexpr,  # the power of two that holds PROGRAM_GROUPS
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    ALIGN: tl.constexpr,  # channels that every program's number of them is a multiple of
):
    """First launch: mean and sum of squared deviations of one chunk into the partials."""
    off_b, off_chunk, off_g, num_channels = _program_share(
        G, g_tiles, num_chunks, PROGRAM_GROUPS, GROUP_CHANNELS, ALIGN
    )
    x_ptr += off_b * stride_xb + (off_g * GROUP_CHANNELS).to(tl.int64) * stride_xc
    first = off_chunk * chunk_size
    last = tl.minimum(first + chunk_size, P)
    mean, m2 = _moments(
        x_ptr,
        stride_xp,
        stride_xc,
        first,
        last,
        num_channels,
        PROGRAM_GROUPS,
        GROUP_CHANNELS,
        BLOCK_G,
        BLOCK_C,
        BLOCK_P,
    )
    offs_g = tl.arange(0, BLOCK_G)
    mask_g = offs_g * GROUP_CHANNELS < num_channels
    entries = partials_ptr + (off_b * G + off_g + offs_g) * 2 * num_chunks + off_chunk
    tl.store(entries, mean, mask=mask_g)
    tl.store(entries + num_chunks, m2, mask=mask_g)


@triton.jit(do_not_specialize=_SIZES)
def group_output_kernel(
    x_ptr,  # [B, C, P], float16, bfloat16 or float32
    out_ptr,  # [B, C, P], x's dtype, written
    weight_ptr,  # [C], x's dtype
    bias_ptr,  # [C], x's dtype
    partials_ptr,  # [B, G, 2, chunks], float32: mean and M2
    stride_xb,
    stride_xp,
    stride_xc,
    stride_ob,
    stride_op,
    stride_oc,
    G,
    g_tiles,  # programs that share an image's groups
    num_chunks,  # programs that share an image's positions
    P,
    chunk_size,  # positions of one program
    eps,
    PROGRAM_GROUPS: tl.constexpr,  # groups of one program
    GROUP_CHANNELS: tl.constexpr,  # C/G
    BLOCK_G: tl.constexpr,  # the power of two that holds PROGRAM_GROUPS
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,  # the power of two that holds num_chunks
    ALIGN: tl.constexpr,  # channels that every program's number of them is a multiple of
    SILU: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """Second launch: merge every chunk's partial, and normalise one chunk."""
    off_b, off_chunk, off_g, num_channels = _program_share(
        G, g_tiles, num_chunks, PROGRAM_GROUPS, GROUP_CHANNELS, ALIGN
    )
    off_c = off_g * GROUP_CHANNELS

    # The chunks' partials of this program's groups, merged.
    offs_g = tl.arange(0, BLOCK_G)
    mask_g = offs_g * GROUP_CHANNELS < num_channels
    entries = partials_ptr + (off_b * G + off_g + offs_g) * 2 * num_chunks
    offs_k = tl.arange(0, BLOCK_CHUNKS)
    valid = mask_g[:, None] & (offs_k < num_chunks)[None, :]
    sizes = tl.minimum(P - offs_k * chunk_size, chunk_size)
    counts = tl.where(offs_k < num_chunks, sizes, 0).to(tl.float32) * GROUP_CHANNELS
    total = tl.cast(P, tl.float32) * GROUP_CHANNELS
    # Means are merged as differences from the first one, so that chunks alike merge without rounding.
    pivot = tl.load(entries, mask=mask_g, other=0.0)
    means = tl.load(entries[:, None] + offs_k[None, :], mask=valid, other=0.0)
    m2 = tl.load(entries[:, None] + num_chunks + offs_k[None, :], mask=valid, other=0.0)
    delta = tl.where(valid, means - pivot[:, None], 0.0)
    mean = pivot + tl.sum(counts[None, :] * delta, 1) / total
    delta = tl.where(valid, means - mean[:, None], 0.0)
    variance = tl.sum(m2 + counts[None, :] * delta * delta, 1) / total
    rstd = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))

    # This program's chunk, normalised.
    first = off_chunk * chunk_size
    _store_chunk(
        x_ptr + off_b * stride_xb + off_c.to(tl.int64) * stride_xc,
        out_ptr + off_b * stride_ob + off_c.to(tl.int64) * stride_oc,
        weight_ptr + off_c,
        bias_ptr + off_c,
        stride_xp,
        stride_xc,
        stride_op,
        stride_oc,
        first,
        tl.minimum(first + chunk_size, P),
        num_channels,
        mean,
        rstd,
        PROGRAM_GROUPS,
        GROUP_CHANNELS,
        BLOCK_G,
        BLOCK_C,
        BLOCK_P,
        SILU,
        EMULATE_BF16,
    )
