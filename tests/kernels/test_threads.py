"""Small work stays on one thread, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.threads import SHARED_FROM, threads_for


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_work_below_the_bound_takes_one_thread_and_gives_the_others_back() -> None:
    x = torch.zeros(1)
    with threads_for(SHARED_FROM - 1, x):
        assert torch.get_num_threads() == 1
        with threads_for(SHARED_FROM, x):
            assert torch.get_num_threads() == 1, "what lies within small work is small"
    assert torch.get_num_threads() == 3
    with threads_for(SHARED_FROM, x):
        assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_threads_are_given_back_after_an_error() -> None:
    with pytest.raises(KeyError), threads_for(1, torch.zeros(1)):
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_tensors_elsewhere_change_no_threads() -> None:
    with threads_for(1, torch.zeros(1, device="meta")):
        assert torch.get_num_threads() == 3
