"""A UNet whose calls are recorded once and replayed: on a GPU, as CUDA graphs.

A step of the method launches thousands of kernels, most of them so short that a Python host falls behind at small
batches. All calls of a kind (plain, self and cross, …) launch the same kernels on other numbers, so one recording
serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from model.unet import Conditioning, Prediction, UNet
from model.unet_blocks import AttentionFeatures, KVSource, Wanted

Work = Callable[..., Sequence[Tensor]]
"""A function of tensors alone: whatever else it uses must be the same in every call of its kind."""


class Recording(Protocol):
    """Recorded work: reads its inputs from fixed tensors and writes its outputs to others."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def replay(self) -> None:
        """Do the work on what the inputs hold now."""


@dataclass(frozen=True)
class _Call:
    """One call of the UNet: all that changes from step to step is in `inputs`, the rest is the kind of call."""

    method: str
    cond: Conditioning
    kv_source: KVSource | None = None
    levels: tuple[Wanted, ...] = ()

    @property
    def kind(self) -> Hashable:
        return self.method, self.levels, None if self.kv_source is None else tuple(self.kv_source.features)

    def inputs(self, z: Tensor) -> list[Tensor]:
        """Latents, time shifts and the other image's features, in this order."""
        features = () if self.kv_source is None else self.kv_source.features.values()
        return [z, *self.cond.time_shifts, *features]

    def run(self, unet: UNet, z: Tensor, *rest: Tensor) -> list[Tensor]:
        """The call on `inputs`."""
        count = len(self.cond.time_shifts)
        cond, kv_source = self.cond.with_time_shifts(rest[:count]), self.kv_source
        if kv_source is not None:
            kv_source = replace(kv_source, features=dict(zip(kv_source.features, rest[count:], strict=True)))
        if self.method == "features":
            return list(unet.features(z, cond, self.levels).values())
        if self.method == "self_and_cross" and kv_source is not None:
            return list(unet.self_and_cross(z, cond, kv_source))
        predicted: Prediction = unet(z, cond, kv_source=kv_source, capture=self.levels)
        return [predicted.eps, *predicted.features.values()]


class GraphedUNet:
    """A UNet under one text, its calls recorded by ``record`` at the first of each kind and replayed from then on.

    It is called as `model.unet.UNet` is. Of ``cond`` only the time shifts may change between calls, and of a
    ``kv_source`` the features. Sources with classes are not recorded: these are read by value.
    """

    def __init__(self, unet: UNet, record: Callable[[Work, Sequence[Tensor]], Recording]) -> None:
        self._unet, self._record = unet, record
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(
        self, z: Tensor, cond: Conditioning, *, kv_source: KVSource | None = None, capture: Iterable[Wanted] = ()
    ) -> Prediction:
        """As `UNet.forward`."""
        levels = tuple(capture)
        eps, *tokens = self._replay(_Call("predict", cond, kv_source, levels), z)
        return Prediction(eps, dict(zip(self._unet.layers(levels), tokens, strict=True)))

    def self_and_cross(self, z: Tensor, cond: Conditioning, kv_source: KVSource) -> tuple[Tensor, Tensor]:
        """As `UNet.self_and_cross`."""
        own, cross = self._replay(_Call("self_and_cross", cond, kv_source), z)
        return own, cross

    def features(self, z: Tensor, cond: Conditioning, levels: Iterable[int]) -> AttentionFeatures:
        """As `UNet.features`."""
        levels = tuple(levels)
        tokens = self._replay(_Call("features", cond, levels=levels), z)
        return dict(zip(self._unet.layers(levels), tokens, strict=True))

    def _replay(self, call: _Call, z: Tensor) -> Sequence[Tensor]:
        inputs, work = call.inputs(z), partial(call.run, self._unet)
        if call.kv_source is not None and call.kv_source.classes:
            return work(*inputs)
        key = (call.kind, tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._record(work, inputs)
        for slot, tensor in zip(recording.inputs, inputs, strict=True):
            slot.copy_(tensor)
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


def with_cuda_graphs(unet: UNet) -> GraphedUNet:
    """``unet`` for one text of one run on a CUDA device. Host synchronisation within a call is an error."""
    return GraphedUNet(unet, partial(CudaGraph, pool=torch.cuda.graph_pool_handle()))
