"""One image of a series, and which of them are made together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from sampler.field_denoising import Reached
from sampler.inputs import TransferInputs
from sampler.settings import Settings


@dataclass(frozen=True)
class GenerationTask:
    """One image of a series; ``reached`` is where an earlier run of the same ended, for a field in windows."""

    inputs: TransferInputs
    seed: int
    reached: Reached | None = None

    def origin_keys(self, settings: Settings) -> tuple[Hashable, ...]:
        """One for each origin, equal for those of all tasks whose `Origin` is the same.

        A stochastic trajectory's noise is drawn after the structure image's, so it depends on the target's size, and on
        the sizes of the origins before.
        """
        origins = self.inputs.origins
        drawn: list[Hashable] = [None] * len(origins)
        if settings.inversion != "ddim":
            shapes = [self.inputs.target_labels.shape, *(each.image.shape for each in origins)]
            drawn = [(self.seed, *shapes[: number + 1]) for number in range(len(origins))]
        return tuple((id(each.image), id(each.labels), how) for each, how in zip(origins, drawn, strict=True))

    @property
    def structure_key(self) -> Hashable:
        """Equal for tasks whose `Structure` is the same: its noise is drawn after the origin's."""
        inputs = self.inputs
        return id(inputs.target_labels), self.seed, inputs.origin.shape, inputs.origin_labels is None

    @property
    def shapes(self) -> Hashable:
        """Equal for tasks that can share a batch."""
        inputs = self.inputs
        origins = tuple(each.image.shape for each in inputs.origins)
        return origins, inputs.target_labels.shape, inputs.num_classes, inputs.origin_labels is None


def plan_batches(tasks: Sequence[GenerationTask], settings: Settings, size: int) -> list[list[int]]:
    """Indices of ``tasks`` in batches of up to ``size``: of the same shapes, those of one origin next to each other."""
    order: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, task in enumerate(tasks):
        order.setdefault(task.shapes, {}).setdefault(task.origin_keys(settings), []).append(index)
    batches = []
    for by_origin in order.values():
        indices = [index for members in by_origin.values() for index in members]
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    return batches
