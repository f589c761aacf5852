"""GEGLU, the gated GELU of feed-forward layers: checked here, computed by ``impl``.

C channels of either half.
"""

from __future__ import annotations

from torch import Tensor

from kernels import checks
from kernels.geglu import reference
from kernels.geglu import torch as torch_impl
from kernels.results import Implementation
from kernels.strides import folded_stride


def geglu(projected: Tensor, *, impl: Implementation = "torch") -> Tensor:
    """Gate the first half of a projection by the GELU of its second half.

    ``value · gate · (1 + erf(gate / √2)) / 2`` with ``value, gate = projected.chunk(2, -1)``: the exact GELU, not its
    approximation by tanh. (Shazeer, arXiv 2002.05202, GEGLU.)

    Args:
        projected: [..., 2·C]; float16, bfloat16, float32 or float64. Any strides, but for ``impl="triton"`` the
            dimensions before the last must fold to one.
        impl: which implementation; see the package.

    Returns:
        A new tensor [..., C] in the dtype of ``projected``, contiguous where that is.

    Raises:
        ValueError: naming every reason at once.
    """
    reasons = checks.Reasons("geglu")
    named = checks.check_impl(reasons, impl)
    if not (checks.check_tensors(reasons, {"projected": projected}) and named):
        reasons.throw()
    checks.check_alike(reasons, {"projected": projected})
    checks.check_triton(reasons, impl, projected)
    if impl == "triton":
        checks.check_no_gradient(reasons, impl, {"projected": projected})
    shaped = projected.ndim >= 1 and projected.numel() > 0 and projected.shape[-1] % 2 == 0
    if reasons.unless(shaped, f"projected must be [..., 2·C], is {checks.shape(projected)}") and impl == "triton":
        even = folded_stride(projected, 0, projected.ndim - 1) is not None
        strides = list(projected.stride())
        reasons.unless(even, f"impl='triton' needs rows one stride apart, projected has strides {strides}")
    reasons.throw()

    if impl == "reference":
        return reference.geglu(projected)
    if impl == "torch":
        return torch_impl.geglu(projected)
    from kernels.geglu import triton as triton_impl

    return triton_impl.geglu(projected)
