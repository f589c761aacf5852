"""Products and convolutions by oneDNN against float64, and what is left to PyTorch."""

from __future__ import annotations

import platform

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import cross_image_attention
from kernels.cross_image_attention import torch as blockwise
from kernels.cross_image_attention.torch import _MANY_KEYS
from kernels.onednn import (
    PART,
    Activation,
    convolve,
    has_bfloat16,
    is_supported,
    linear,
    pack_parts,
    prepack,
    sum_of_parts,
)
from tests.kernels import plain
from tests.tolerances import assert_as_accurate

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available(), reason="no oneDNN here"
)
both_dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(
            torch.bfloat16, marks=pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
        ),
    ],
    ids=str,
)


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@both_dtypes
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("strided", [False, True])
def test_product_is_as_accurate_as_plain_pytorch(
    strided: bool, biased: bool, activation: Activation, dtype: torch.dtype
) -> None:
    x, weight = drawn(1, 2, 37, 50, dtype=dtype), drawn(2, 29, 50, dtype=dtype)
    if strided:
        x, weight = x.transpose(0, 1).contiguous().transpose(0, 1), weight.t().contiguous().t()
    bias = drawn(3, 29, dtype=dtype) if biased else None
    assert is_supported(x, weight)

    def by_pytorch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if activation == "gelu" else out

    exact = by_pytorch(x.double(), weight.double(), None if bias is None else bias.double())
    magnitude = F.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs())
    out = linear(x, weight, bias, activation)
    assert_as_accurate(out, by_pytorch(x, weight, bias), exact, per=(0,), magnitude=magnitude)


@pytest.mark.parametrize(("rows", "width"), [(7, 40), (200, 8), (200, 80)])
@pytest.mark.parametrize("terms", [PART, PART + 44, 5 * PART, 9 * PART])
def test_sums_in_parts_are_as_accurate_as_plain_pytorch(terms: int, rows: int, width: int) -> None:
    x, weight = drawn(1, rows, terms).softmax(-1), drawn(2, terms, width).t()
    whole = torch.nn.functional.pad(x, (0, -terms % PART))
    out = sum_of_parts(whole, pack_parts(weight, rows), width)
    assert_as_accurate(out, x @ weight.t(), x.double() @ weight.t().double())


def test_what_onednn_does_not_take_is_left_to_pytorch() -> None:
    x, weight = drawn(1, 5, 8), drawn(2, 3, 8)
    assert is_supported(x, weight)
    assert not is_supported(x.double(), weight.double())
    assert not is_supported(x.half(), weight.half())
    assert not is_supported(x, weight.double())
    assert not is_supported(x.to("meta"), weight.to("meta"))
    weight.requires_grad_()
    assert not is_supported(x, weight)
    linear(x, weight, None, "gelu").sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert is_supported(x, weight)
    exact = F.gelu(F.linear(x.double(), weight.detach().double()))
    torch.testing.assert_close(linear(x.double(), weight.detach().double(), None, "gelu"), exact)


@both_dtypes
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_packed_convolutions_are_as_accurate_as_plain_pytorch(
    last: bool, padding: tuple[int, int], stride: int, dtype: torch.dtype
) -> None:
    x, weight, bias = (
        drawn(1, 2, 24, 9, 14, dtype=dtype),
        drawn(2, 40, 24, 3, 3, dtype=dtype),
        drawn(3, 40, dtype=dtype),
    )
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    # Packed for another padding and another grid: it serves all of them.
    packed = prepack(weight, (stride, stride), (1, 1), (32, 32))
    out = convolve(x, packed, bias, (stride, stride), padding)
    assert out.is_contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    magnitude = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), stride, padding)
    assert_as_accurate(out, F.conv2d(x, weight, bias, stride, padding), exact, per=(0, 1), magnitude=magnitude)


@both_dtypes
@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("width", [40, 80])
def test_attention_to_many_keys_is_as_accurate_as_plain_pytorch(
    width: int, contrast: float, dtype: torch.dtype
) -> None:
    queries, keys = 600, _MANY_KEYS + 3
    q, k, v = (drawn(seed, 2, count, 3, width, dtype=dtype) for seed, count in ((1, queries), (2, keys), (3, keys)))
    q, k, v = (2 * q).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    assert is_supported(q, k, v)
    out = cross_image_attention(q, k, v, contrast=contrast)
    exact = plain.attention(q.double(), k.double(), v.double(), contrast)
    magnitude = plain.terms(q, k, v, contrast)
    assert_as_accurate(out, plain.attention(q, k, v, contrast), exact, per=(0, 1), magnitude=magnitude)
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


@both_dtypes
def test_attention_to_more_keys_than_blocks_are_good_for_is_pytorchs(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_MOST_KEYS", _MANY_KEYS + 2)
    monkeypatch.setattr(blockwise, "_by_onednn", None)
    q, k, v = (drawn(seed, 1, 1, count, 96, dtype=dtype) for seed, count in ((1, 70), (2, _MANY_KEYS + 3), (3, 1027)))
    out = cross_image_attention(q, k, v)
    exact = plain.attention(q.double(), k.double(), v.double(), 1.0)
    magnitude = plain.terms(q, k, v, 1.0)
    assert_as_accurate(out, plain.attention(q, k, v, 1.0), exact, per=(0, 1), magnitude=magnitude)
