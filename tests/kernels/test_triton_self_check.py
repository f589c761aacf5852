"""The self-check finds faults planted in each kernel, and none in what is right. Under Triton's interpreter."""

from __future__ import annotations

import importlib

import pytest
import torch

from kernels import self_check as module
from kernels.results import AttentionResult
from kernels.self_check import Failure, self_check
from tests.kernels.device import DEVICE

pytest.importorskip("triton", reason="Triton is for Linux alone")
pytestmark = pytest.mark.gpu

WIDTHS = (16,)


def failed(monkeypatch, wanted, dtype=torch.float16):
    """The failures among the cases of one kernel."""
    cases = list(module._cases(WIDTHS))
    chosen = [case for case in cases if case.kernel.startswith(wanted)]
    if wanted == "cross_image_attention":
        # Without classes: those have cases of their own.
        chosen = [case for case in chosen if "class" not in case.kernel]
    assert chosen
    monkeypatch.setattr(module, "_cases", lambda widths: chosen)
    return self_check(torch.device(DEVICE), dtype, WIDTHS)


def plant(monkeypatch, kernel, name, wrong):
    """Let ``wrong`` stand for the launching function ``name`` of ``kernel``; it gets the right one first."""
    launching = importlib.import_module(f"kernels.{kernel}.triton")
    right = getattr(launching, name)
    monkeypatch.setattr(launching, name, lambda *arguments, **options: wrong(right, *arguments, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_nothing_is_wrong_with_the_kernels(dtype):
    assert self_check(torch.device(DEVICE), dtype, WIDTHS) == []


def scaled(factor):
    return lambda right, *arguments, **options: right(*arguments, **options) * factor


def one_nan(right, *arguments, **options):
    result = right(*arguments, **options)
    result[-1, ..., -1, -1] = torch.nan
    return result


def swapped_heads(right, q, *others, **options):
    # As if the strides of heads and positions had been taken for each other.
    strides = (q.stride(0), q.stride(2), q.stride(1), q.stride(3))
    wrong = torch.as_strided(q, q.shape, strides)
    return right(wrong.contiguous(), *others, **options)


def shifted_rows(right, x, *others, **options):
    return right(x.roll(1, dims=-1), *others, **options)


FAULTS = {
    "scale": ("cross_image_attention", "attention", lambda right, q, k, v, c: right(q * 1.01, k, v, c)),
    "contrast": ("cross_image_attention", "attention", lambda right, q, k, v, c: right(q, k, v, c * 1.02)),
    "stride": ("cross_image_attention", "attention", swapped_heads),
    "NaN": ("cross_image_attention", "attention", one_nan),
    "adain": ("masked_adain", "masked_adain", scaled(1.003)),
    "adain, NaN": ("masked_adain", "masked_adain", one_nan),
    "adain, other side": ("masked_adain", "masked_adain", shifted_rows),
    "features": ("adain_features", "adain_features", scaled(1.003)),
    "norm": ("group_norm", "group_norm", lambda right, x, *rest: right(x, rest[0] // 2, *rest[1:])),
    "norm, SiLU": ("group_norm", "group_norm", lambda right, *a: right(*a[:5], not a[5], *a[6:])),
    "gate": ("geglu", "geglu", lambda right, x: right(x.roll(x.shape[-1] // 2, -1))),
    "gate, NaN": ("geglu", "geglu", one_nan),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch):
    kernel, name, wrong = FAULTS[fault]
    plant(monkeypatch, kernel, name, wrong)
    failures = failed(monkeypatch, kernel)
    assert failures
    assert all(f.kernel.startswith(kernel) and "error" in f.reason and "\n" not in f.reason for f in failures)


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize("part", ["count", "mean", "variance"])
def test_wrong_statistics_are_found(part, side, monkeypatch):
    def wrong(right, *arguments):
        result = right(*arguments)
        assert isinstance(result, AttentionResult)
        found = getattr(getattr(result, side), part)
        found[-1, ..., -1] += 1 if part == "count" else 0.02 * found.abs().max()
        return result

    plant(monkeypatch, "cross_image_attention", "labelled_attention", wrong)
    assert failed(monkeypatch, "cross_image_attention at head width 16 with classes")


def test_keys_of_another_class_are_found(monkeypatch):
    def wrong(right, q, k, v, contrast, query_labels, key_labels, num_classes, within_class):
        return right(q, k, v, contrast, query_labels, key_labels.roll(1, -1), num_classes, within_class)

    plant(monkeypatch, "cross_image_attention", "labelled_attention", wrong)
    assert failed(monkeypatch, "cross_image_attention at head width 16 within")


@pytest.mark.parametrize(
    "error", [RuntimeError("PassManager::run failed\n at line 3"), OSError(), AssertionError("x" * 999)]
)
def test_a_kernel_that_does_not_compile_is_named_with_its_error(error, monkeypatch):
    def wrong(right, *arguments):
        raise error

    plant(monkeypatch, "geglu", "geglu", wrong)
    (failure,) = failed(monkeypatch, "geglu")
    assert failure == Failure("geglu", failure.reason)
    assert type(error).__name__ in failure.reason
    assert len(failure.reason) < 300
    assert "\n" not in failure.reason
