"""GEGLU by ``reference`` and ``torch`` against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import Implementation, geglu
from tests.allocations import peak_extra_bytes
from tests.kernels import plain
from tests.tolerances import assert_as_accurate

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

every_implementation = pytest.mark.parametrize("impl", ["reference", "torch"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def gated(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Gates from -8 to 8 among them, where GELU ends."""
    projected = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    gate = projected[..., shape[-1] // 2 :]
    gate.mul_(torch.linspace(0.2, 4, gate.shape[-1]))
    return projected.to(dtype)


@every_implementation
@every_dtype
@pytest.mark.parametrize("shape", [(2, 33, 80), (7, 2), (74,), (1, 5, 3, 6)], ids=str)
def test_geglu_is_as_accurate_as_plain_pytorch(
    shape: tuple[int, ...], dtype: torch.dtype, impl: Implementation
) -> None:
    projected = gated(shape, dtype)
    before = projected.clone()
    out = geglu(projected, impl=impl)
    exact = plain.geglu(projected.double())
    assert_as_accurate(out, plain.geglu(projected), exact, per=(-1,), magnitude=plain.geglu_terms(projected))
    assert out.is_contiguous()
    assert torch.equal(projected, before)


@every_implementation
def test_value_comes_before_gate_and_gelu_is_exact(impl: Implementation) -> None:
    value = torch.tensor([3.0, -2.0, 5.0, 7.0], dtype=torch.float64)
    gate = torch.tensor([0.5, 1.0, -40.0, 40.0], dtype=torch.float64)
    out = geglu(torch.cat([value, gate]), impl=impl)
    wanted = [
        v * g * 0.5 * (1 + math.erf(g / math.sqrt(2))) for v, g in zip(value.tolist(), gate.tolist(), strict=True)
    ]
    torch.testing.assert_close(out, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)


@every_implementation
def test_geglu_has_the_gradient_of_its_formula_and_takes_any_strides(impl: Implementation) -> None:
    projected = gated((3, 4, 6), torch.float64).transpose(0, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: geglu(p, impl=impl), [projected])
    assert torch.equal(geglu(projected, impl=impl), geglu(projected.contiguous(), impl=impl))


def test_geglu_holds_nothing_beside_its_result() -> None:
    projected = gated((1, 1024, 640), torch.float32)
    assert peak_extra_bytes(lambda: geglu(projected, impl="torch")) <= projected.nbytes // 2 + 4096


def test_geglu_refuses_odd_widths_and_integers() -> None:
    with pytest.raises(ValueError, match=r"projected must be \[..., 2·C\], is \[4, 5\]"):
        geglu(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"^geglu: projected must be float16"):
        geglu(torch.zeros(4, 6, dtype=torch.int64))
