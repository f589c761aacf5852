"""The method's settings of a run: a preset, what the weights recommend, what was asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from commands.options import listing
from commands.recommended import read_recommended
from commands.requests import MethodRequest
from sampler.presets import choose, in_proportion, in_words
from sampler.settings import Settings


def method_settings(request: MethodRequest) -> tuple[Settings, list[str]]:
    """The settings, and notes on those that the user did not give.

    Recommended ones are used where the user named no preset; with another number of steps, what counts steps changes
    in proportion.

    Raises InputError or SettingError.
    """
    preset = "winter" if request.preset is None else request.preset
    base = choose(preset, {})
    recommended = read_recommended(Path(os.path.expanduser(request.weights))) if request.preset is None else {}
    wanted = {name: value for name, value in recommended.items() if name not in request.overrides}
    notes = []
    if wanted:
        notes.append(f"these weights recommend {listing(wanted)} (--preset {preset} turns that off)")
    base = replace(base, **in_proportion(base, recommended), **recommended)
    scaled = in_proportion(base, request.overrides)
    if scaled:
        steps = listing({"steps": request.overrides["steps"]})
        notes.append(f"{steps}: in proportion {listing(scaled)}; give an option to say otherwise")
    settings = replace(base, **{**scaled, **in_words(request.overrides), **request.overrides})
    settings.check()
    return settings, notes
