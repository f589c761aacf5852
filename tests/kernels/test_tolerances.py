"""The yardstick itself: it must refuse what is wrong in a small part."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import assert_as_accurate


def test_plain_pytorch_itself_is_accepted() -> None:
    exact = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_as_accurate(exact.half(), exact.half(), exact, per=(0, 1))


def test_one_wrong_head_is_refused_though_others_err_more() -> None:
    exact = torch.ones(2, 8, 16, dtype=torch.float64)
    plain = exact.float()
    plain[0] += 0.1
    actual = exact.float()
    actual[1, 3] += 0.01
    assert_as_accurate(actual, plain, exact)
    with pytest.raises(AssertionError, match="in slice 1"):
        assert_as_accurate(actual, plain, exact, per=(0,))


def test_nan_is_refused() -> None:
    exact = torch.ones(4, dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_as_accurate(exact.float().index_fill(0, torch.tensor([2]), torch.nan), exact.float(), exact)


def test_another_dtype_or_shape_is_refused() -> None:
    exact = torch.ones(4, dtype=torch.float64)
    with pytest.raises(AssertionError, match="instead of"):
        assert_as_accurate(exact.half(), exact.float(), exact)
    with pytest.raises(AssertionError):
        assert_as_accurate(exact.float()[None], exact.float(), exact)
