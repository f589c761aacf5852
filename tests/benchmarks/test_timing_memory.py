"""The measure that memory figures come from sees memory that comes and goes within a call."""

from __future__ import annotations

import pytest
import torch

from benchmarks.timing import held_bytes, peak_bytes

CPU = torch.device("cpu")
SIZE = 200_000_000
SLACK = 20_000_000  # pages of the interpreter and the allocator


def filled() -> torch.Tensor:
    return torch.ones(SIZE, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def counted():
    if held_bytes(CPU) is None:
        pytest.skip("this system does not let a process reset its high-water mark")


def test_a_tensor_that_comes_and_goes_is_seen():
    before = held_bytes(CPU)
    filled()
    assert abs(peak_bytes(CPU) - before - SIZE) < SLACK


def test_a_new_watch_does_not_see_an_earlier_peak():
    filled()
    before = held_bytes(CPU)
    assert peak_bytes(CPU) - before < SLACK


def test_memory_held_before_counts_as_held():
    held = filled()
    before = held_bytes(CPU)
    assert before >= held.nbytes
    assert peak_bytes(CPU) - before < SLACK


@pytest.mark.gpu
def test_a_tensor_on_the_gpu_that_comes_and_goes_is_seen():
    device = torch.device("cuda")
    before = held_bytes(device)
    torch.ones(SIZE, dtype=torch.uint8, device=device)
    assert abs(peak_bytes(device) - before - SIZE) < SLACK
