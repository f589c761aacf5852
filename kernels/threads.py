"""Work that is too small to be shared out among a processor's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SHARED_FROM = 2**27
"""Floating-point operations from which on a block of layers is shared out: a few milliseconds of one core."""


@contextmanager
def threads_for(operations: int, x: Tensor) -> Iterator[None]:
    """Within, PyTorch takes one CPU thread if a block of layers on ``x`` has fewer ``operations`` than `SHARED_FROM`.

    A block has some twenty parallel regions. To wake a sleeping thread takes 5 to 80 µs each time, and if another
    program holds its core, milliseconds. PyTorch's number of threads belongs to the process: it is put back on
    leaving. Nothing happens for tensors elsewhere.
    """
    threads = torch.get_num_threads() if x.is_cpu and operations < SHARED_FROM else 1
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
