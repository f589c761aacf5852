"""AdaIN of latents by Triton.

B batch, C channels, P positions of z, P' positions of the source. In names of strides b is the image and c the channel.
"""

# Kernel arguments are types of Triton's own, which Python annotations would only mislead about.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.masked_adain.tiles import BLOCK_P, CLASSES_PER_LAUNCH
from kernels.triton_tile_ops import device_of, emulates_bf16, round_to


@triton.jit
def _class_moments(
    x_ptr,  # of one channel: [P], float16, bfloat16 or float32
    labels_ptr,  # of one image: [P], any integer type
    c,
    P,
    BLOCK_P: tl.constexpr,
):
    """Count, mean and unbiased variance of a channel over the positions of class c, in two passes."""
    count = 0.0
    total = 0.0
    for start in range(0, P, BLOCK_P):
        offs_p = start + tl.arange(0, BLOCK_P)
        member = (offs_p < P) & (tl.load(labels_ptr + offs_p, mask=offs_p < P, other=0) == c)
        count += tl.sum(member.to(tl.float32), 0)
        total += tl.sum(tl.load(x_ptr + offs_p, mask=member, other=0.0).to(tl.float32), 0)
    mean = total / tl.maximum(count, 1.0)
    m2 = 0.0
    for start in range(0, P, BLOCK_P):
        offs_p = start + tl.arange(0, BLOCK_P)
        member = (offs_p < P) & (tl.load(labels_ptr + offs_p, mask=offs_p < P, other=0) == c)
        deviation = tl.where(member, tl.load(x_ptr + offs_p, mask=member, other=0.0).to(tl.float32) - mean, 0.0)
        m2 += tl.sum(deviation * deviation, 0)
    return count, mean, m2 / tl.maximum(count - 1.0, 1.0)


@triton.jit(do_not_specialize=["C", "P", "P_SOURCE", "first_class", "num_classes", "wanted"])
def masked_adain_kernel(
    z_ptr,  # [B, C, P], float16, bfloat16 or float32, changed in place; channels and positions adjoin
    source_ptr,  # [B, C, P'], z's dtype; positions adjoin
    z_labels_ptr,  # [B, P], any integer type; positions adjoin
    source_labels_ptr,  # [B, P'], any integer type; positions adjoin
    stride_zb,
    stride_sb,
    stride_sc,
    stride_zlb,  # of z's labels
    stride_slb,  # of the source's labels
    C,
    P,
    P_SOURCE,
    first_class,
    num_classes,  # of this launch, at most 31
    wanted,  # bit i: whether class first_class + i is done
    eps,
    BLOCK_P: tl.constexpr,
    EMULATE_BF16: tl.constexpr,
):
    """One channel of one image, in place: every wanted class takes the source's statistics."""
    # This program's image and channel.
    off_b = (tl.program_id(0) // C).to(tl.int64)
    off_c = tl.program_id(0) % C
    x_ptr = z_ptr + off_b * stride_zb + off_c * P
    labels_ptr = z_labels_ptr + off_b * stride_zlb
    y_ptr = source_ptr + off_b * stride_sb + off_c * stride_sc
    source_labels_ptr += off_b * stride_slb
    for i in range(num_classes):
        if (wanted >> i) & 1 == 1:
            # The statistics of either side.
            c = first_class + i
            count, mean, variance = _class_moments(x_ptr, labels_ptr, c, P, BLOCK_P)
            source_count, source_mean, source_variance = _class_moments(y_ptr, source_labels_ptr, c, P_SOURCE, BLOCK_P)
            # z takes the source's, where both sides have some.
            if (count >= 2.0) & (source_count >= 2.0):
                scale = tl.sqrt((source_variance + eps) / (variance + eps))
                for start in range(0, P, BLOCK_P):
                    offs_p = start + tl.arange(0, BLOCK_P)
                    member = (offs_p < P) & (tl.load(labels_ptr + offs_p, mask=offs_p < P, other=0) == c)
                    x = tl.load(x_ptr + offs_p, mask=member, other=0.0).to(tl.float32)
                    adapted = (x - mean) * scale + source_mean
                    tl.store(x_ptr + offs_p, round_to(adapted, z_ptr.dtype.element_ty, EMULATE_BF16), mask=member)


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
    # [B, C, P'], [B, P], [B, P']
    source, z_labels, source_labels = (
        _with_adjoining_positions(t) for t in (source.flatten(2), z_labels.flatten(1), source_labels.flatten(1))
    )
    with device_of(z):
        for first in range(0, num_classes, CLASSES_PER_LAUNCH):
            wanted = sum(1 << (c - first) for c in classes if first <= c < first + CLASSES_PER_LAUNCH)
            if wanted == 0:
                continue
            masked_adain_kernel[(batch * channels,)](
                result,
                source,
                z_labels,
                source_labels,
                result.stride(0),
                source.stride(0),
                source.stride(1),
                z_labels.stride(0),
                source_labels.stride(0),
                channels,
                height * width,
                source.shape[2],
                first,
                min(CLASSES_PER_LAUNCH, num_classes - first),
                wanted,
                float(eps),
                BLOCK_P=BLOCK_P,
                EMULATE_BF16=emulates_bf16(z.dtype),
                enable_fp_fusion=True,
            )
    return result


def _with_adjoining_positions(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
