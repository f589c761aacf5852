"""A short schedule, its variants, and series of tasks that share some of their work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sampler.feature_cache import CacheBudget
from sampler.inputs import TransferInputs
from sampler.presets import PRESETS
from sampler.series import Result, generate_series
from sampler.settings import Settings, Span
from sampler.tasks import GenerationTask

SHORT = Settings(
    steps=12,
    skip_steps=2,
    cross_attn_64=Span(2, 9),
    cross_attn_32=Span(2, 7),
    adain_range=Span(3, 10),
    structure_every=3,
    structure_until=6,
)
CASES = {
    "winter": {},
    "ddim": {"inversion": "ddim", "skip_steps": 0},
    "fresh noise": {"fresh_noise": 0.5},
    "restricted, features": {"within_class_attention": True, "adain_features": True},
    "global": {"adain": "global"},
    "alaluf": {"redenoise": True, "inversion_guidance": 3.5, "counter_lag": 1, "free_u": True, "adain": "foreground"},
}
FOUND = replace(
    PRESETS["alaluf"],
    steps=6,
    skip_steps=1,
    cross_attn_64=Span(1, 4),
    cross_attn_32=Span(1, 3),
    adain_range=Span(2, 5),
    structure_every=2,
)
"""The ``alaluf`` preset in a few steps, for tasks without the origins' labels."""
EVERYWHERE = CacheBudget(device=10**9)


def labels(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 2, (height // 16, width // 16)), np.ones((16, 16), dtype=np.int64))


def inputs(seed: int, height: int = 64, width: int = 64) -> TransferInputs:
    rng = np.random.default_rng(seed)
    origin = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    return TransferInputs(origin, labels(seed, 64, 128), labels(seed + 1, height, width), 2)


def tasks() -> list[GenerationTask]:
    """Two origins, three masks of two sizes, two seeds: everything is shared by some and not by others."""
    first, second = inputs(1), inputs(11)
    other = replace(first, target_labels=labels(5, 64, 64))
    large = replace(first, target_labels=labels(6, 128, 64))
    crossed = replace(second, target_labels=first.target_labels)
    pairs = [(first, 0), (large, 0), (other, 0), (crossed, 0), (first, 1), (other, 1), (second, 0)]
    return [GenerationTask(pair, seed) for pair, seed in pairs]


def run(model, work, settings, execution) -> dict[int, Result]:
    events = generate_series(model, work, settings, execution)
    results = {event.index: event for event in events if isinstance(event, Result)}
    assert sorted(results) == list(range(len(work)))
    return results
