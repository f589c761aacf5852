"""Group normalisation by ``reference`` and ``torch`` against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import Implementation, geglu, group_norm
from tests.allocations import peak_extra_bytes
from tests.kernels import plain
from tests.kernels.cases import NormCase, doubles, norm_input
from tests.tolerances import assert_as_accurate

EPS = 1e-5
CASES = (
    NormCase(2, 40, 9, 7, 4),
    NormCase(2, 40, 9, 7, 4, "channels last"),
    NormCase(1, 96, 8, 8, 32, "channels last"),
    NormCase(2, 12, 5, 11, 3, "surrounded"),
    NormCase(2, 12, 5, 11, 3, "channels last surrounded"),
    NormCase(1, 6, 7, 4, 6, "transposed"),
    NormCase(1, 5, 1, 3, 1),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

every_implementation = pytest.mark.parametrize("impl", ["reference", "torch"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_layouts = pytest.mark.parametrize("layout", ["contiguous", "channels last"])


@every_implementation
@every_dtype
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_group_norm_is_as_accurate_as_plain_pytorch(
    case: NormCase, silu: bool, dtype: torch.dtype, impl: Implementation
) -> None:
    x, weight, bias = norm_input(case, dtype)
    before = x.clone()
    out = group_norm(x, case.groups, weight, bias, eps=EPS, silu=silu, impl=impl)
    wide, *affine = doubles(x, weight, bias)
    exact = plain.group_norm(wide, case.groups, *affine, EPS, silu)
    same = plain.group_norm(x, case.groups, weight, bias, EPS, silu)
    magnitude = plain.group_norm_terms(x, case.groups, weight, bias, EPS)
    if dtype == torch.float64:
        # Plain PyTorch is the exact result here and has no error to compare with: √n roundings for sums of n terms.
        magnitude *= math.sqrt(x[0].numel() / case.groups)
    assert_as_accurate(out, same, exact, per=(0, 1), magnitude=magnitude)
    assert torch.equal(x, before)


@every_implementation
@pytest.mark.parametrize("case", CASES, ids=str)
def test_result_is_channels_last_where_the_input_is(case: NormCase, impl: Implementation) -> None:
    x, weight, bias = norm_input(case, torch.float16)
    out = group_norm(x, case.groups, weight, bias, eps=EPS, silu=True, impl=impl)
    wanted = torch.channels_last if case.layout == "channels last" else torch.contiguous_format
    assert out.is_contiguous(memory_format=wanted)


@every_implementation
@both_layouts
@pytest.mark.parametrize("mean", [1e3, -3e4])
def test_variance_survives_a_large_mean(mean: float, layout: str, impl: Implementation) -> None:
    case = NormCase(2, 32, 17, 13, 4, layout)
    x, weight, bias = norm_input(case, torch.float32, mean=mean)
    wide, *affine = doubles(x, weight, bias)
    exact = plain.group_norm(wide, case.groups, *affine, EPS, False)
    same = plain.group_norm(x, case.groups, weight, bias, EPS, False)
    magnitude = plain.group_norm_terms(x, case.groups, weight, bias, EPS)
    out = group_norm(x, case.groups, weight, bias, eps=EPS, impl=impl)
    assert_as_accurate(out, same, exact, per=(0, 1), magnitude=magnitude)

    grouped = x.unflatten(1, (case.groups, -1))
    centre = grouped.mean((2, 3, 4), keepdim=True)
    squares = grouped.square().mean((2, 3, 4), keepdim=True) - centre.square()
    subtracted = ((grouped - centre) / (squares.clamp(min=0) + EPS).sqrt()).flatten(1, 2)
    subtracted = subtracted * weight[:, None, None] + bias[:, None, None]
    with pytest.raises(AssertionError, match="allowed"):
        assert_as_accurate(subtracted, same, exact, per=(0, 1), magnitude=magnitude)


@every_implementation
@every_dtype
@both_layouts
def test_constant_groups_give_the_bias(layout: str, dtype: torch.dtype, impl: Implementation) -> None:
    case = NormCase(1, 12, 9, 7, 3, layout)
    x, weight, bias = norm_input(case, dtype)
    x = torch.full_like(x, 0.7)
    out = group_norm(x, case.groups, weight, bias, eps=EPS, impl=impl)
    exact = bias.double()[:, None, None].expand(x.shape)
    same = plain.group_norm(x, case.groups, weight, bias, EPS, False)
    magnitude = plain.group_norm_terms(x, case.groups, weight, bias, EPS)
    assert_as_accurate(out, same, exact, per=(0, 1), magnitude=magnitude)


@every_implementation
@every_dtype
@pytest.mark.parametrize("batch", [1, 3])
def test_groups_of_one_value_give_the_bias(batch: int, dtype: torch.dtype, impl: Implementation) -> None:
    x, weight, bias = norm_input(NormCase(batch, 4, 1, 1, 4), dtype)
    out = group_norm(x, 4, weight, bias, eps=EPS, impl=impl)
    wanted = bias[:, None, None].expand_as(out)
    magnitude = plain.group_norm_terms(x, 4, weight, bias, EPS)
    assert_as_accurate(out, wanted, wanted.double(), per=(0, 1), magnitude=magnitude)


@every_implementation
@both_layouts
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_group(value: float, layout: str, impl: Implementation) -> None:
    case = NormCase(2, 12, 4, 5, 3, layout)
    x, weight, bias = norm_input(case, torch.float32)
    x[1, 5, 2, 3] = value
    out = group_norm(x, case.groups, weight, bias, eps=EPS, silu=True, impl=impl)
    lost = out.isnan()
    assert lost[1, 4:8].all()
    assert int(lost.sum()) == 4 * 20


@every_implementation
@both_layouts
def test_group_norm_has_the_gradient_of_its_formula(layout: str, impl: Implementation) -> None:
    case = NormCase(1, 4, 3, 2, 2, layout)
    inputs = [t.requires_grad_() for t in norm_input(case, torch.float64)]

    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(x, case.groups, weight, bias, eps=EPS, silu=True, impl=impl)

    assert torch.autograd.gradcheck(normalised, inputs)


def test_contiguous_group_norm_holds_nothing_beside_its_result() -> None:
    x, weight, bias = norm_input(NormCase(1, 64, 64, 64, 32), torch.float32)
    peak = peak_extra_bytes(lambda: group_norm(x, 32, weight, bias, eps=EPS, silu=True, impl="torch"))
    assert peak <= x.nbytes + 4096


def test_every_reason_against_group_norm_is_named_at_once() -> None:
    x = torch.zeros(1, 6, 4, 4)
    with pytest.raises(ValueError, match=r"^group_norm: ") as refusal:
        group_norm(x, 4, torch.zeros(5), torch.zeros(6, dtype=torch.float16), eps=-1.0, impl="fast")  # type: ignore[arg-type]
    for part in ("impl must be", "differ in dtype", "eps must be", "4 groups do not divide 6", "weight must be [6]"):
        assert part in str(refusal.value)
    with pytest.raises(ValueError, match=r"x must be \[B, C, H, W\], is \[6, 4\].*") as refusal:
        group_norm(x[0, :, 0], 0, torch.zeros(6), torch.zeros(6), eps=math.nan)
    assert "groups must be at least 1" in str(refusal.value)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_triton_refuses_strides_it_cannot_read(impl: Implementation) -> None:
    case = NormCase(1, 6, 7, 4, 6, "transposed")
    x, weight, bias = norm_input(case, torch.float32)
    projected = torch.zeros(4, 3, 8).transpose(0, 1)
    if impl == "torch":
        assert group_norm(x, 6, weight, bias, eps=EPS, impl=impl).shape == x.shape
        assert geglu(projected, impl=impl).shape == (3, 4, 4)
        return
    with pytest.raises(ValueError, match="positions one stride apart"):
        group_norm(x, 6, weight, bias, eps=EPS, impl=impl)
    with pytest.raises(ValueError, match="rows one stride apart"):
        geglu(projected, impl=impl)
    large, affine = torch.zeros(1, 2, 4096, 2049, device="meta"), torch.zeros(2, device="meta")
    with pytest.raises(ValueError, match="at most 8388608 positions"):
        group_norm(large, 2, affine, affine, eps=EPS, impl=impl)
    with pytest.raises(ValueError, match="x and weight want gradients"):
        group_norm(x.requires_grad_(), 6, weight.requires_grad_(), bias, eps=EPS, impl=impl)
