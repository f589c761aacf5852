"""Adaptive instance normalisation of attention features, class by class: checked here, computed by ``impl``.

B batch, H heads, Nq queries, D head width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import checks
from kernels.adain_features import reference
from kernels.adain_features import torch as torch_impl
from kernels.results import AttentionResult, ClassStatistics, Implementation


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
    named = checks.check_impl(reasons, impl)
    checks.check_eps(reasons, eps)
    whole = isinstance(result, AttentionResult) and all(
        isinstance(side, ClassStatistics) for side in (result.query, result.key)
    )
    reasons.unless(whole, "result must be what cross_image_attention gave with labels")
    readable = checks.check_tensors(reasons, {"query_labels": query_labels})
    if not (whole and named and readable):
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
    checks.check_reach(reasons, impl, {"out": out}, out.shape[0] * out.shape[1])
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
        return torch_impl.adain_features(result, query_labels, eps)
    from kernels.adain_features import triton as triton_impl

    return triton_impl.adain_features(result, query_labels, eps)
