"""How far a result may lie from the exact one. Every tolerance of the numerical tests is derived here.

An implementation is judged against float64, beside plain PyTorch in the implementation's own dtype: its largest
error may be ``factor`` times plain PyTorch's, plus one rounding of the result in that dtype, plus one rounding in
the accumulator's dtype of the terms that the result is made of, where the test says how large they are. Errors are
judged in each slice apart (each head, each class), since over a whole tensor a small part that is all wrong hides.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    """Spacing of ``dtype`` at 1."""
    return torch.finfo(dtype).eps


def assert_as_accurate(
    actual: Tensor,
    plain: Tensor,
    exact: Tensor,
    *,
    factor: float = 2.0,
    per: tuple[int, ...] = (),
    magnitude: Tensor | None = None,
) -> None:
    """``actual`` is as close to ``exact`` as plain PyTorch is, in every slice along the dimensions ``per``.

    Args:
        actual: what is tested.
        plain: the same by plain PyTorch operations in ``actual``'s dtype.
        exact: the same in float64 from the same input.
        factor: allowed multiple of plain PyTorch's error.
        per: dimensions whose every index is judged apart.
        magnitude: size of the terms that sum to each value, times what their own rounding is amplified by;
            broadcast to ``exact``. Its rounding is float32's, or float64's for a float64 result.
    """
    assert actual.shape == exact.shape == plain.shape, f"{actual.shape}, {plain.shape}, {exact.shape}"
    assert actual.dtype == plain.dtype, f"{actual.dtype} instead of {plain.dtype}"
    assert exact.dtype == torch.float64, "the exact result must be float64"
    assert bool(exact.isfinite().all()), "the exact result must be finite"
    error = (actual.double() - exact).abs().nan_to_num(nan=torch.inf)
    allowed = factor * _largest((plain.double() - exact).abs(), per)
    allowed = allowed + unit_roundoff(actual.dtype) * _largest(exact.abs(), per)
    if magnitude is not None:
        accumulator = torch.float64 if actual.dtype == torch.float64 else torch.float32
        allowed = allowed + unit_roundoff(accumulator) * _largest(magnitude.double().expand_as(exact), per)
    excess = _largest(error, per) - allowed
    assert bool((excess <= 0).all()), (
        f"error {_largest(error, per).flatten()[int(excess.argmax())]:.3g}, allowed "
        f"{allowed.flatten()[int(excess.argmax())]:.3g}, in slice {int(excess.argmax())} of dimensions {per}"
    )


def _largest(x: Tensor, per: tuple[int, ...]) -> Tensor:
    """Largest value of x over all dimensions but ``per``."""
    others = tuple(d for d in range(x.ndim) if d not in [p % x.ndim for p in per])
    return x.amax(others) if others else x
