"""``impl="torch"`` holds no map of all queries against all keys, by PyTorch's own account of its allocations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import labels
from torch.profiler import ProfilerActivity, profile

from kernels import cross_image_attention

LIMIT = 64e6  # bytes; one map of the largest case is 537 MB


def peak_extra_bytes(work: Callable[[], object]) -> int:
    """The most memory held at once by what ``work`` allocates, its result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert kept is not None
    return peak


def test_the_account_sees_short_lived_tensors() -> None:
    assert peak_extra_bytes(lambda: (torch.zeros(1000, 1000) + 1).sum()) >= 8e6


@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_peak_extra_memory_is_under_64_megabytes(contrast: float, restrict: bool, transposed: bool) -> None:
    tokens, heads, width = 4096, 8, 40
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, tokens, heads, width, generator=g)
    if transposed:
        x = x.transpose(2, 4).contiguous().transpose(2, 4)
    q, k, v = x.transpose(2, 3)
    q = q[:, :, :512] if contrast == 1 else q  # the same tensors, less time
    of_query = labels("mixed", 1, q.shape[2], 1) if restrict else None
    of_key = labels("mixed", 1, tokens, 2) if restrict else None

    def work() -> object:
        return cross_image_attention(
            q, k, v, contrast=contrast, query_labels=of_query, key_labels=of_key, restrict=restrict
        )  # type: ignore[call-overload]

    assert peak_extra_bytes(work) < LIMIT
