"""AdaIN of latents by Triton.

B batch, C channels, P positions of z, P' positions of the source.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_tile_ops import device_of, emulates, narrowed

_POSITIONS = 1024  # of a channel, at once
_CLASSES_PER_LAUNCH = 31  # the classes wanted are the bits of an int32
_SIZES = ("channels", "positions", "source_positions", "first_class", "classes", "wanted")


@triton.jit
def _class_moments(values, labels, c, positions, BLOCK: tl.constexpr):
    """Count, mean and unbiased variance of a channel over the positions of class c, in two passes."""
    count = 0.0
    total = 0.0
    for start in range(0, positions, BLOCK):
        at = start + tl.arange(0, BLOCK)
        member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
        count += tl.sum(member.to(tl.float32), 0)
        total += tl.sum(tl.load(values + at, mask=member, other=0.0).to(tl.float32), 0)
    mean = total / tl.maximum(count, 1.0)
    squares = 0.0
    for start in range(0, positions, BLOCK):
        at = start + tl.arange(0, BLOCK)
        member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
        deviation = tl.where(member, tl.load(values + at, mask=member, other=0.0).to(tl.float32) - mean, 0.0)
        squares += tl.sum(deviation * deviation, 0)
    return count, mean, squares / tl.maximum(count - 1.0, 1.0)


@triton.jit(do_not_specialize=_SIZES)
def masked_adain_kernel(
    z,
    source,
    z_labels,
    source_labels,
    z_batch,
    source_batch,
    source_channel,
    z_label_batch,
    source_label_batch,
    channels,
    positions,
    source_positions,
    first_class,
    classes,
    wanted,
    eps,
    BLOCK: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """One channel of one image, in place: every wanted class of first_class.. takes the source's statistics."""
    image = (tl.program_id(0) // channels).to(tl.int64)
    channel = tl.program_id(0) % channels
    values = z + image * z_batch + channel * positions
    labels = z_labels + image * z_label_batch
    source_values = source + image * source_batch + channel * source_channel
    source_labels += image * source_label_batch
    for bit in range(classes):
        if (wanted >> bit) & 1 == 1:
            c = first_class + bit
            count, mean, variance = _class_moments(values, labels, c, positions, BLOCK)
            source_count, source_mean, source_variance = _class_moments(
                source_values, source_labels, c, source_positions, BLOCK
            )
            if (count >= 2.0) & (source_count >= 2.0):
                scale = tl.sqrt((source_variance + eps) / (variance + eps))
                for start in range(0, positions, BLOCK):
                    at = start + tl.arange(0, BLOCK)
                    member = (at < positions) & (tl.load(labels + at, mask=at < positions, other=0) == c)
                    x = tl.load(values + at, mask=member, other=0.0).to(tl.float32)
                    moved = (x - mean) * scale + source_mean
                    tl.store(values + at, narrowed(moved, z.dtype.element_ty, EMULATE), mask=member)


def masked_adain(
    z: Tensor,
    source: Tensor,
    z_labels: Tensor,
    source_labels: Tensor,
    classes: tuple[int, ...],
    num_classes: int,
    eps: float,
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w].

    A copy of z, and one launch for every 31 classes.
    """
    batch, channels, height, width = z.shape
    result = z.clone(memory_format=torch.contiguous_format)
    origin = source.flatten(2)  # [B, C, P']
    if origin.stride(2) != 1:
        origin = origin.contiguous()
    here, there = z_labels.flatten(1), source_labels.flatten(1)  # [B, P], [B, P']
    if here.stride(1) != 1:
        here = here.contiguous()
    if there.stride(1) != 1:
        there = there.contiguous()
    with device_of(z):
        for first in range(0, num_classes, _CLASSES_PER_LAUNCH):
            wanted = sum(1 << (c - first) for c in classes if first <= c < first + _CLASSES_PER_LAUNCH)
            if wanted == 0:
                continue
            masked_adain_kernel[(batch * channels,)](
                result,
                origin,
                here,
                there,
                result.stride(0),
                origin.stride(0),
                origin.stride(1),
                here.stride(0),
                there.stride(0),
                channels,
                height * width,
                origin.shape[2],
                first,
                min(_CLASSES_PER_LAUNCH, num_classes - first),
                wanted,
                float(eps),
                BLOCK=_POSITIONS,
                EMULATE=emulates(z.dtype),
                enable_fp_fusion=True,
            )
    return result
