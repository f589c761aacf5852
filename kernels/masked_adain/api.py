"""Adaptive instance normalisation of latents, class by class: checked here, computed by ``impl``.

B batch, C channels, h and w height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from kernels import checks
from kernels.masked_adain import reference
from kernels.masked_adain import torch as torch_impl
from kernels.results import Implementation

AdainClasses = Iterable[int]


def masked_adain(
    z: Tensor,
    source: Tensor,
    z_labels: Tensor,
    source_labels: Tensor,
    *,
    classes: AdainClasses,
    num_classes: int,
    eps: float = 1e-5,
    impl: Implementation = "torch",
) -> Tensor:
    """Give the latents' positions of a class the source's mean and standard deviation of that class.

    ``z[c] = (z[c] - mean_c(z)) / std_c(z) · std_c(source) + mean_c(source)`` per channel, with unbiased
    variance and ``std = sqrt(variance + eps)``. A class with fewer than 2 positions on either side is left as
    it is, and so are classes not asked for. (Huang and Belongie, arXiv 1703.06868, restricted to classes as
    in Winter et al.; without classes give labels of zeros.)

    Args:
        z: [B, C, h, w], any strides; float16, bfloat16, float32 or float64.
        source: [B, C, h', w'], or [1, C, h', w'] for all of the batch.
        z_labels: integers, [h, w] or [B, h, w].
        source_labels: integers, [h', w'] or [source's batch, h', w'].
        classes: the classes to do.
        num_classes: every label is below this.
        eps: added to both variances: 0, or a number of float32 from 1.2e-38 on.
        impl: which implementation; see the package. Statistics are float32 (float64 for float64).

    Returns:
        A new tensor [B, C, h, w] in z's dtype.

    Raises:
        ValueError: naming every reason at once.
    """
    reasons = checks.Reasons("masked_adain")
    named = checks.check_impl(reasons, impl)
    counted = checks.check_num_classes(reasons, num_classes)
    checks.check_eps(reasons, eps)
    listed: list[int] = []
    if reasons.unless(isinstance(classes, Iterable), f"classes must be integers, is {checks.shown(classes)}"):
        # A tensor without dimensions says it can be gone through, and cannot; bytes are integers by accident.
        hidden = isinstance(classes, Tensor | str | bytes)
        listed = [] if hidden else list(classes)
        integers = not hidden and all(map(checks.is_integer, listed))
        if reasons.unless(integers, f"classes must be integers, is {checks.shown(classes)}") and counted:
            outside = [c for c in listed if not 0 <= c < num_classes]
            reasons.unless(not outside, f"classes {checks.shown(outside)} are outside 0..{num_classes - 1}")
    tensors = {"z": z, "source": source, "z_labels": z_labels, "source_labels": source_labels}
    if not (checks.check_tensors(reasons, tensors) and named):
        reasons.throw()
    checks.check_alike(reasons, {"z": z, "source": source})
    checks.check_triton(reasons, impl, z)
    checks.check_reach(reasons, impl, {"z": z, "source": source})
    checks.check_no_gradient(reasons, impl, {"z": z, "source": source})
    for name, t in (("z", z), ("source", source)):
        reasons.unless(t.ndim == 4 and t.numel() > 0, f"{name} must be [B, C, h, w], is {checks.shape(t)}")
    if z.ndim == source.ndim == 4:
        reasons.unless(z.shape[1] == source.shape[1], f"z has {z.shape[1]} channels, source {source.shape[1]}")
        reasons.unless(
            source.shape[0] in (1, z.shape[0]),
            f"source's batch must be 1 or {z.shape[0]}, is {source.shape[0]}",
        )
        for name, labels, data in (("z_labels", z_labels, z), ("source_labels", source_labels, source)):
            side = tuple(data.shape[2:])
            shapes = (side, (data.shape[0], *side))
            checks.check_labels(reasons, name, labels, shapes, num_classes if counted else None, data.device)
    reasons.throw()

    wanted = tuple(dict.fromkeys(int(c) for c in listed))
    num_classes, eps = int(num_classes), float(eps)
    z_labels, source_labels = (checks.comparable(labels, num_classes) for labels in (z_labels, source_labels))
    z_labels = z_labels.expand(z.shape[0], *z.shape[2:])  # [B, h, w]
    source = source.expand(z.shape[0], -1, -1, -1)  # [B, C, h', w']
    source_labels = source_labels.expand(z.shape[0], *source.shape[2:])  # [B, h', w']
    if impl == "reference":
        return reference.masked_adain(z, source, z_labels, source_labels, wanted, eps)
    if impl == "torch":
        return torch_impl.masked_adain(z, source, z_labels, source_labels, wanted, eps)
    from kernels.masked_adain import triton as triton_impl

    return triton_impl.masked_adain(z, source, z_labels, source_labels, wanted, num_classes, eps)
