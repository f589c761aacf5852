"""Fewer steps of the same shape, for where a hundred would take hours."""

from __future__ import annotations

from dataclasses import replace

from sampler.settings import PRESETS, Settings, Span


def shortened(steps: int) -> Settings:
    """The ``winter`` preset with ``steps`` instead of 100; for 100 the preset itself.

    Every number of steps in it is scaled and rounded: the skipped ones, the ends of all ranges, and where the
    structure's turns end. How often the structure is taken cannot be scaled (every 5th step of 100 would be every half
    step of 10), so it becomes what brings the structure's share of the swapped steps nearest to the preset's 6 of 58;
    of two equally near, the more frequent.

    Raises ValueError if a kind of step would not occur at all: known in advance, swapped with the origin or with the
    structure, matched in each of two classes.
    """
    full = PRESETS["winter"]

    def scaled(count: int) -> int:
        return round(count * steps / full.steps)

    def span(of: Span | None) -> Span | None:
        return None if of is None else Span(scaled(of.start), scaled(of.stop))

    settings = replace(
        full,
        steps=steps,
        skip_steps=scaled(full.start_step),
        cross_attn_64=span(full.cross_attn_64),
        cross_attn_32=span(full.cross_attn_32),
        adain_range=Span(scaled(full.adain_range.start), scaled(full.adain_range.stop)),
        structure_until=scaled(full.structure_until),
    )
    _, wanted = _swaps(full)
    settings = min(
        (replace(settings, structure_every=every) for every in range(1, settings.num_denoising_steps + 1)),
        key=lambda candidate: abs(_swaps(candidate)[1] - wanted),
    )
    swapped, share = _swaps(settings)
    matched = {c for j in range(settings.num_denoising_steps) for c in settings.adain_classes(j, 2)}
    if not (settings.num_known_steps and 0.0 < share < 1.0 and matched == {0, 1}):
        raise ValueError(f"{steps} steps are too few for every kind of step ({swapped} would swap)")
    return full if settings == replace(full, skip_steps=full.start_step) else settings


def _swaps(settings: Settings) -> tuple[int, float]:
    """How many steps swap keys and values, and the share of them that takes the structure's."""
    swapped = [j for j in range(settings.num_denoising_steps) if settings.swapped_levels(j)]
    if not swapped:
        return 0, 0.0
    return len(swapped), sum(settings.borrows_from_structure(j) for j in swapped) / len(swapped)
