"""``impl="torch"`` holds no map of all queries against all keys, by PyTorch's own account of its allocations."""

from __future__ import annotations

import pytest
import torch

from kernels import cross_image_attention
from tests.allocations import peak_extra_bytes
from tests.kernels.cases import labels

LIMIT = 64e6  # bytes; one map of the largest case is 537 MB


def test_the_account_sees_short_lived_tensors() -> None:
    assert peak_extra_bytes(lambda: (torch.zeros(1000, 1000) + 1).sum()) >= 8e6


@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_peak_extra_memory_is_under_64_megabytes(contrast: float, within_class: bool, transposed: bool) -> None:
    tokens, heads, width = 4096, 8, 40
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, tokens, heads, width, generator=g)
    if transposed:
        x = x.transpose(2, 4).contiguous().transpose(2, 4)
    q, k, v = x.transpose(2, 3)
    q = q[:, :, :512] if contrast == 1 else q  # the same tensors, less time
    of_query = labels("mixed", 1, q.shape[2], 1) if within_class else None
    of_key = labels("mixed", 1, tokens, 2) if within_class else None

    def work() -> object:
        return cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=of_query,
            key_labels=of_key,
            num_classes=3 if within_class else None,
            within_class=within_class,
        )  # type: ignore[call-overload]

    assert peak_extra_bytes(work) < LIMIT
