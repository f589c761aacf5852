"""Cross-image attention with contrast, and the statistics of each class: checked here, computed by ``impl``.

B batch, H heads, Nq queries, Nk keys, D head width, C classes.
"""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from kernels import checks
from kernels.cross_image_attention import reference
from kernels.cross_image_attention import torch as torch_impl
from kernels.results import AttentionResult, Implementation


@overload
def cross_image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    contrast: float = 1.0,
    query_labels: None = None,
    key_labels: None = None,
    num_classes: int | None = None,
    within_class: Literal[False] = False,
    impl: Implementation = "torch",
) -> Tensor: ...


@overload
def cross_image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    contrast: float = 1.0,
    query_labels: Tensor,
    key_labels: Tensor,
    num_classes: int,
    within_class: bool = False,
    impl: Implementation = "torch",
) -> AttentionResult: ...


def cross_image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    contrast: float = 1.0,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    num_classes: int | None = None,
    within_class: bool = False,
    impl: Implementation = "torch",
) -> Tensor | AttentionResult:
    """Attention of one image's queries to another's keys, with contrast on the probabilities.

    ``p = softmax(q kᵀ / √D)`` over the Nk keys, ``p' = clip(contrast·(p - 1/Nk) + 1/Nk, 0, 1)``, out = p' v.
    The rows of p' are not renormalised. Contrast 1 is plain attention. (Alaluf et al., arXiv 2311.03335, in
    the form of their public code.)

    With labels the result also carries, per class, count, mean and unbiased variance of ``out`` over the
    queries of the class and of ``v`` over the keys of the class. The statistics of ``out`` are those of the
    returned tensor or of its values before the last rounding to a half type.

    With ``within_class`` the queries of class c see the keys of class c alone, and 1/Nk becomes 1/(number of keys
    of class c). Queries of a class without keys see all keys. A key that a query does not see changes nothing in its
    row, even where it is not finite.

    Args:
        q: [B, H, Nq, D], any strides; float16, bfloat16, float32 or float64.
        k: [B, H, Nk, D], any strides.
        v: [B, H, Nk, D], any strides.
        contrast: within ``CONTRAST_RANGE``, 1e-6 to 1e6; below 1 it flattens.
        query_labels: integers 0..C-1, [Nq] or [B, Nq]; given together with ``key_labels``.
        key_labels: integers 0..C-1, [Nk] or [B, Nk].
        num_classes: C, with labels.
        within_class: keep classes apart; needs labels.
        impl: which implementation; see the package. Softmax and statistics are float32 (float64 for float64).

    Returns:
        out [B, H, Nq, D] without labels, in q's dtype, laid out so that ``out.transpose(1, 2).flatten(2)``
        is a view; an ``AttentionResult`` with labels.

    Raises:
        ValueError: naming every reason at once.
    """
    reasons = checks.Reasons("cross_image_attention")
    named = checks.check_impl(reasons, impl)
    contrasted = not checks.check_contrast(reasons, contrast) or contrast != 1
    if any(given is not None for given in (num_classes, query_labels, key_labels)):
        checks.check_num_classes(reasons, num_classes)
    checks.check_flag(reasons, "within_class", within_class)
    data = {"q": q, "k": k, "v": v}
    given = {name: t for name, t in (("query_labels", query_labels), ("key_labels", key_labels)) if t is not None}
    if not (checks.check_tensors(reasons, data | given) and named and isinstance(within_class, bool)):
        reasons.throw()
    checks.check_heads(reasons, q, k, v)
    checks.check_triton(reasons, impl, q, q.shape[-1] if q.ndim == 4 else None)
    if q.ndim == k.ndim == v.ndim == 4:
        checks.check_reach(reasons, impl, {"q": q, "k": k, "v": v}, q.shape[0] * q.shape[1])
    if impl != "torch" or contrasted or within_class or query_labels is not None:
        checks.check_no_gradient(reasons, impl, data)
    if query_labels is None or key_labels is None:
        reasons.unless(query_labels is key_labels, "query_labels and key_labels are given together or not at all")
        reasons.unless(not within_class, "within_class needs query_labels and key_labels")
    elif not reasons:
        batch = q.shape[0]
        for name, labels, count in (
            ("query_labels", query_labels, q.shape[2]),
            ("key_labels", key_labels, k.shape[2]),
        ):
            checks.check_labels(reasons, name, labels, ((count,), (batch, count)), num_classes, q.device)
        if impl == "triton" and num_classes is not None:
            partials = batch * q.shape[1] * (q.shape[2] + k.shape[2]) * num_classes // 16
            reasons.unless(
                partials < checks.MOST_ELEMENTS,
                f"impl='triton' takes fewer classes of so many positions: {partials} partial statistics of 2**31",
            )
    reasons.throw()

    contrast = float(contrast)
    if query_labels is None or key_labels is None:
        if impl == "reference":
            return reference.attention(q, k, v, contrast)
        if impl == "torch":
            return torch_impl.attention(q, k, v, contrast)
        from kernels.cross_image_attention import triton as triton_impl

        return triton_impl.attention(q, k, v, contrast)

    assert num_classes is not None
    num_classes = int(num_classes)
    query_labels = checks.comparable(query_labels, num_classes).expand(q.shape[0], q.shape[2])  # [B, Nq]
    key_labels = checks.comparable(key_labels, num_classes).expand(k.shape[0], k.shape[2])  # [B, Nk]
    if impl == "reference":
        out = reference.labelled_attention(q, k, v, contrast, query_labels, key_labels, num_classes, within_class)
        query = reference.class_statistics(out, query_labels, num_classes)
        return AttentionResult(out, query, reference.class_statistics(v, key_labels, num_classes))
    if impl == "torch":
        out = (
            torch_impl.attention(q, k, v, contrast)
            if not within_class
            else torch_impl.attention_within_class(q, k, v, contrast, query_labels, key_labels, num_classes)
        )
        query = torch_impl.class_statistics(out, query_labels, num_classes)
        return AttentionResult(out, query, torch_impl.class_statistics(v, key_labels, num_classes))
    from kernels.cross_image_attention import triton as triton_impl

    return triton_impl.labelled_attention(q, k, v, contrast, query_labels, key_labels, num_classes, within_class)
