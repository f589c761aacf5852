"""The two presets, and settings that follow from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sampler.errors import SettingError
from sampler.settings import MOST_STEPS, Settings, Span

SPANS = ("cross_attn_64", "cross_attn_32", "adain_range")


def prompt_of(domain: str) -> str:
    """The baseline's prompt (public code of Alaluf et al., without a rule for a and an)."""
    return f"A photo of a {domain}"


PRESETS: Mapping[str, Settings] = {
    "winter": Settings(),
    "alaluf": Settings(
        prompt=prompt_of("tissue"),
        domain="tissue",
        adain="foreground",
        inversion_guidance=3.5,
        redenoise=True,
        counter_lag=1,
        free_u=True,
    ),
}


def in_proportion(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What ``overrides`` leave to be scaled where they change the number of steps: values by field name.

    That is the skipped steps, the ranges and the last structure step of ``settings``, as far as ``overrides`` do not
    give them. Rounded to whole steps; a range keeps one at least.
    """
    others = {name: value for name, value in overrides.items() if name != "steps"}
    old, steps = replace(settings, **others), overrides.get("steps", settings.steps)
    if steps == old.steps or not 1 <= steps <= MOST_STEPS:
        return {}

    def scaled(count: int) -> int:
        return math.floor(count * steps / old.steps + 0.5)

    values: dict[str, Any] = {
        "skip_steps": min(scaled(old.start_step), steps - 1),
        "structure_until": scaled(old.structure_until),
    }
    for name in SPANS:
        span = getattr(old, name)
        if span is not None:
            start = scaled(span.start)
            values[name] = Span(start, max(start + 1, scaled(span.stop)))
    return {name: value for name, value in values.items() if name not in overrides and value != getattr(old, name)}


def in_words(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt that a domain among ``overrides`` brings, unless they give one: values by field name."""
    domain = overrides.get("domain")
    return {} if domain is None or "prompt" in overrides else {"prompt": prompt_of(domain)}


def choose(preset: str, overrides: Mapping[str, Any]) -> Settings:
    """The ``preset`` with ``overrides`` by field name, checked. Raises SettingError."""
    if preset not in PRESETS:
        raise SettingError("preset", preset, f"must be one of {', '.join(PRESETS)}")
    settings = replace(PRESETS[preset], **in_words(overrides), **overrides)
    settings.check()
    return settings
