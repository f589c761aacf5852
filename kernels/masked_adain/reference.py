"""The specification: AdaIN of latents written as its formula.

Float32 or float64, rounded once, at the end. Arguments are checked by the public function.
"""

from __future__ import annotations

from torch import Tensor

from kernels.precision import widened


def masked_adain(
    z: Tensor, source: Tensor, z_labels: Tensor, source_labels: Tensor, classes: tuple[int, ...], eps: float
) -> Tensor:
    """z [B, C, h, w], source [B, C, h', w'], labels [B, h, w] and [B, h', w'] -> [B, C, h, w]."""
    result = widened(z).clone()
    for b in range(z.shape[0]):
        for c in classes:
            here, there = z_labels[b] == c, source_labels[b] == c
            old, wanted = widened(z[b])[:, here], widened(source[b])[:, there]  # [C, positions]
            if min(old.shape[1], wanted.shape[1]) < 2:
                continue
            normal = (old - old.mean(1, keepdim=True)) / (old.var(1, keepdim=True) + eps).sqrt()
            result[b][:, here] = normal * (wanted.var(1, keepdim=True) + eps).sqrt() + wanted.mean(1, keepdim=True)
    return result.to(z.dtype)
