"""Group normalisation with SiLU: checked here, computed by ``impl``.

B batch, C channels, G groups, H and W height and width of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import checks
from kernels.group_norm import reference
from kernels.group_norm import torch as torch_impl
from kernels.group_norm.tiles import MOST_POSITIONS, MOST_STRIDE
from kernels.results import Implementation
from kernels.strides import folded_stride


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    silu: bool = False,
    impl: Implementation = "torch",
) -> Tensor:
    """Normalise each group of adjoining channels of each image, scale and shift each channel, and take SiLU or not.

    ``y = (x - mean) / sqrt(variance + eps) · weight + bias`` with the mean and the biased variance of the C/G·H·W
    values of a group (Wu and He, arXiv 1803.08494, equation 1); with ``silu`` the result is ``y · sigmoid(y)``
    (Elfwing et al., arXiv 1702.03118). Variances are sums of squared deviations, so a mean far from 0 costs them
    nothing.

    Args:
        x: [B, C, H, W]; float16, bfloat16, float32 or float64. Any strides, but for ``impl="triton"`` all H·W positions
            must be one stride apart, as they are in contiguous and in channels-last tensors, and at most 2²³.
        groups: G, a divisor of C.
        weight: [C], x's dtype.
        bias: [C], x's dtype.
        eps: added to the variance: 0, or a number of float32 from 1.2e-38 on.
        silu: whether SiLU follows.
        impl: which implementation; see the package. Statistics are float32 (float64 for float64).

    Returns:
        A new tensor [B, C, H, W] in x's dtype: channels last where x is, contiguous otherwise.

    Raises:
        ValueError: naming every reason at once.
    """
    reasons = checks.Reasons("group_norm")
    named = checks.check_impl(reasons, impl)
    checks.check_eps(reasons, eps)
    checks.check_flag(reasons, "silu", silu)
    positive = reasons.unless(
        checks.is_integer(groups) and groups >= 1,
        f"groups must be at least 1, an integer, is {checks.shown(groups)}",
    )
    if not (checks.check_tensors(reasons, {"x": x, "weight": weight, "bias": bias}) and named):
        reasons.throw()
    checks.check_alike(reasons, {"x": x, "weight": weight, "bias": bias})
    checks.check_triton(reasons, impl, x)
    if impl == "triton":
        checks.check_no_gradient(reasons, impl, {"x": x, "weight": weight, "bias": bias})
    if reasons.unless(x.ndim == 4 and x.numel() > 0, f"x must be [B, C, H, W], is {checks.shape(x)}"):
        channels = x.shape[1]
        divides = not positive or channels % groups == 0
        reasons.unless(divides, f"{checks.shown(groups)} groups do not divide {channels} channels")
        for name, t in (("weight", weight), ("bias", bias)):
            reasons.unless(t.shape == (channels,), f"{name} must be [{channels}], is {checks.shape(t)}")
        if impl == "triton":
            row, strides = folded_stride(x, 2, 4), list(x.stride())
            reasons.unless(row is not None, f"impl='triton' needs positions one stride apart, not strides {strides}")
            near = max(x.shape[2] * x.shape[3], strides[1]) <= MOST_POSITIONS and (row is None or row <= MOST_STRIDE)
            most = f"at most {MOST_POSITIONS} positions, channels as far apart and positions {MOST_STRIDE}"
            reasons.unless(near, f"impl='triton' takes {most}, not {checks.shape(x)} with strides {strides}")
    reasons.throw()

    groups, eps = int(groups), float(eps)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if impl == "reference":
        return reference.group_norm(x, groups, weight, bias, eps, silu, layout)
    if impl == "torch":
        return torch_impl.group_norm(x, groups, weight, bias, eps, silu, layout)
    from kernels.group_norm import triton as triton_impl

    return triton_impl.group_norm(x, groups, weight, bias, eps, silu, layout)
