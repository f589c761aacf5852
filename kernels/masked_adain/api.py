"""Adaptive instance normalisation per class, of latents and of attention features: checked here.

B batch, C channels, h, w latent height and width, H heads, N positions, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kernels import checks
from kernels.cross_image_attention import reference
from kernels.masked_adain import torch as torch_adain
from kernels.results import AttentionResult, ClassStatistics, Implementation

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
    comparable = checks.check_impl(reasons, impl)
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
    if not (checks.check_tensors(reasons, tensors) and comparable):
        reasons.throw()
    checks.check_alike(reasons, {"z": z, "source": source})
    checks.check_triton(reasons, impl, z)
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
        return torch_adain.masked_adain(z, source, z_labels, source_labels, wanted, eps)
    from kernels.masked_adain import triton as triton_adain

    return triton_adain.masked_adain(z, source, z_labels, source_labels, wanted, num_classes, eps)


def adain_features(
    result: AttentionResult, query_labels: Tensor, *, eps: float = 1e-5, impl: Implementation = "torch"
) -> Tensor:
    """Give an attention layer's output, class by class, the statistics of the origin's values.

    ``out[c] = (out[c] - mean_c(out)) / std_c(out) · std_c(v) + mean_c(v)`` per head and channel, with the
    statistics that came with the attention: no pass over keys or values. A class with fewer than 2 queries or
    keys is left as it is. An extension that goes beyond the paper.

    Args:
        result: what ``cross_image_attention`` gave with labels.
        query_labels: the same query labels, [Nq] or [B, Nq].
        eps: added to both variances: 0, or a number of float32 from 1.2e-38 on.
        impl: which implementation; see the package.

    Returns:
        A new tensor [B, H, Nq, D] in the dtype and layout of ``result.out``.

    Raises:
        ValueError: naming every reason at once.
    """
    reasons = checks.Reasons("adain_features")
    comparable = checks.check_impl(reasons, impl)
    checks.check_eps(reasons, eps)
    whole = isinstance(result, AttentionResult) and all(
        isinstance(side, ClassStatistics) for side in (result.query, result.key)
    )
    reasons.unless(whole, "result must be what cross_image_attention gave with labels")
    readable = checks.check_tensors(reasons, {"query_labels": query_labels})
    if not (whole and comparable and readable):
        reasons.throw()
    out = result.out
    parts = {"query." + name: t for name, t in vars(result.query).items()}
    parts |= {"key." + name: t for name, t in vars(result.key).items()}
    if not checks.check_tensors(reasons, {"out": out} | parts):
        reasons.throw()
    checks.check_alike(reasons, {"out": out})
    if not reasons.unless(out.ndim == 4 and out.numel() > 0, f"out must be [B, H, N, D], is {checks.shape(out)}"):
        reasons.throw()
    checks.check_triton(reasons, impl, out, out.shape[-1])
    checks.check_no_gradient(reasons, impl, {"out": out})
    batch, heads, queries, width = out.shape
    count = result.query.count
    num_classes = count.shape[-1] if count.ndim == 2 else 0
    for name, t in parts.items():
        counts = name.endswith("count")
        wanted = (batch, num_classes) if counts else (batch, heads, num_classes, width)
        types = checks.INTEGERS if counts else (torch.float32, torch.float64)
        fits = tuple(t.shape) == wanted and num_classes > 0 and t.dtype in types and t.device == out.device
        reasons.unless(fits, f"{name} is not of the same attention as out: {checks.shape(t)}, {t.dtype}, {t.device}")
    if not reasons:
        shapes = ((queries,), (batch, queries))
        checks.check_labels(reasons, "query_labels", query_labels, shapes, num_classes, out.device)
    reasons.throw()

    eps = float(eps)
    query_labels = checks.comparable(query_labels, num_classes).expand(out.shape[0], out.shape[2])  # [B, Nq]
    if impl == "reference":
        return reference.adain_features(result, query_labels, eps)
    if impl == "torch":
        return torch_adain.adain_features(result, query_labels, eps)
    from kernels.masked_adain import triton as triton_adain

    return triton_adain.adain_features(result, query_labels, eps)
