"""The measure that memory figures come from sees memory that comes and goes within a call."""

from __future__ import annotations

import pytest
import torch

from benchmarks.timing import Watch

CPU = torch.device("cpu")
SIZE = 200_000_000
SLACK = 20_000_000  # pages of the interpreter and the allocator


def filled() -> torch.Tensor:
    return torch.ones(SIZE, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def counted():
    if Watch(CPU).read() is None:
        pytest.skip("this system does not let a process reset its high-water mark")


def test_a_tensor_that_comes_and_goes_is_seen():
    watch = Watch(CPU)
    filled()
    peak = watch.read()
    assert abs(peak.extra - SIZE) < SLACK
    assert peak.peak == peak.before + peak.extra


def test_a_new_watch_does_not_see_an_earlier_peak():
    filled()
    watch = Watch(CPU)
    assert watch.read().extra < SLACK


def test_memory_held_before_counts_as_held():
    held = filled()
    peak = Watch(CPU).read()
    assert peak.before >= held.nbytes
    assert peak.extra < SLACK


@pytest.mark.gpu
def test_a_tensor_on_the_gpu_that_comes_and_goes_is_seen():
    watch = Watch(torch.device("cuda"))
    torch.ones(SIZE, dtype=torch.uint8, device="cuda")
    assert abs(watch.read().extra - SIZE) < SLACK
