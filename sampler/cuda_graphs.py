"""Calls of the network that are recorded once and replayed: on a GPU, as CUDA graphs.

A step of the method launches thousands of kernels, most of them so short that a Python host falls behind at small
batches. All steps of a kind (plain, self and cross pass parting, …) launch the same kernels on other numbers, so one
recording serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[..., Sequence[Tensor]]
"""A function of tensors alone: whatever else it uses must be the same in every call of its kind."""


class Runner(Protocol):
    """Runs ``work`` on ``inputs``. Calls of one ``kind`` do the same work and have inputs of one shape."""

    def __call__(self, kind: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What ``work`` gives, in memory of its own."""


def call_eagerly(kind: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """A `Runner` that records nothing."""
    return work(*inputs)


class Recording(Protocol):
    """Recorded work: reads its inputs from fixed tensors and writes its outputs to others."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def replay(self) -> None:
        """Do the work on what the inputs hold now."""


class Replaying:
    """A `Runner` that records each kind of work at its first call, by ``record``, and replays it from then on."""

    def __init__(self, record: Callable[[Work, Sequence[Tensor]], Recording]) -> None:
        self._record = record
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(self, kind: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """As `Runner`. The kind is told apart by the inputs' shapes too."""
        key = (kind, tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._record(work, inputs)
        for there, here in zip(recording.inputs, inputs, strict=True):
            there.copy_(here)
        recording.replay()
        # The next replay, of this kind or another that shares its memory, overwrites the outputs.
        return [tensor.clone() for tensor in recording.outputs]


class CudaGraph:
    """One `Recording` as a CUDA graph. All graphs of a ``pool`` share the memory of what lies between."""

    def __init__(self, work: Work, inputs: Sequence[Tensor], pool: Any) -> None:
        self.inputs: Sequence[Tensor] = [tensor.clone() for tensor in inputs]
        # Libraries choose algorithms and allocate workspaces at first calls, which must not happen while recording.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                work(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.outputs: Sequence[Tensor] = list(work(*self.inputs))

    def replay(self) -> None:
        """As `Recording.replay`, on the current stream."""
        self._graph.replay()


def cuda_graphs() -> Replaying:
    """A `Runner` for one run on a CUDA device. Host synchronisation within a kind of work is an error at recording."""
    pool = torch.cuda.graph_pool_handle()
    return Replaying(lambda work, inputs: CudaGraph(work, inputs, pool))
