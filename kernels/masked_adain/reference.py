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
            z_member, source_member = z_labels[b] == c, source_labels[b] == c
            x, y = widened(z[b])[:, z_member], widened(source[b])[:, source_member]  # [C, positions]
            if min(x.shape[1], y.shape[1]) < 2:
                continue
            normal = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + eps).sqrt()
            result[b][:, z_member] = normal * (y.var(1, keepdim=True) + eps).sqrt() + y.mean(1, keepdim=True)
    return result.to(z.dtype)
