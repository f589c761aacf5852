"""The method's options: how each is called on the command line, read from text and written as text again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imaging.errors import InputError
from model.files import shown
from sampler.settings import ADAIN_MODES, Settings, Span


def whole_number(text: str) -> int:
    """``text`` of ASCII digits, at most twenty, with or without a sign. Raises ValueError for any other."""
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text) is None:
        raise ValueError(f"{shown(text)} is not a whole number")
    return int(text)


@dataclass(frozen=True)
class Option:
    """One field of `Settings` as an option. ``parse`` raises InputError or ValueError for text it cannot read.

    An option without ``metavar`` is a flag: it takes no text, and giving it means True.
    """

    field: str
    parse: Callable[[str], Any]
    metavar: str | None
    help: str

    @property
    def flag(self) -> str:
        """``cross_attn_64`` -> ``--cross-attn-64``."""
        return "--" + self.field.replace("_", "-")


def optional_span(text: str) -> Span | None:
    """``A:B``, or ``none`` for no step at all."""
    return None if text == "none" else Span.parse(text)


def greys(text: str) -> tuple[float, ...]:
    """``0.1,0.5`` -> (0.1, 0.5)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{shown(text)}: write greys from 0 to 1 with commas, such as 0.1,0.5") from error


METHOD_OPTIONS = (
    Option("prompt", str, "TEXT", "text condition of every network call"),
    Option("steps", whole_number, "T", "steps of the whole schedule (100)"),
    Option("skip_steps", whole_number, "S", "noisiest steps left out (32 with ddpm, 0 with ddim)"),
    Option("inversion", str, "MODE", "ddpm: edit-friendly noise maps; ddim: deterministic"),
    Option("inversion_guidance", float, "S", "classifier-free guidance of the inversion (1)"),
    Option("cross_attn_64", optional_span, "A:B", "steps that swap keys and values at latent resolution (10:90)"),
    Option("cross_attn_32", optional_span, "A:B", "the same at half of it (10:70); `none` swaps at no step"),
    Option("adain_range", Span.parse, "A:B", "steps that match statistics (20:100)"),
    Option("adain", str, "MODE", "whose statistics a step matches: " + ", ".join(ADAIN_MODES)),
    Option("guidance", float, "A", "how far the prediction moves from self- towards cross-attention's (3.5)"),
    Option("contrast", float, "BETA", "contrast of the swapped attention, 1 is off (1.67)"),
    Option("structure_every", whole_number, "N", "every Nth step swaps in the mask's own keys instead, 0 never (5)"),
    Option("structure_until", whole_number, "J", "… in steps before this one (40)"),
    Option("class_values", greys, "G,G,…", "greys that paint the classes (0.1,0.5 for two)"),
    Option("mask_noise", float, "VAR", "variance of the noise on the painted mask (0.0001)"),
    Option("fresh_noise", float, "F", "share of fresh noise in each step, 0 to 1 (0, the paper's method)"),
    Option("restrict_attention", bool, None, "swapped attention sees the query's own class alone (an extension)"),
    Option("adain_features", bool, None, "match its output's statistics class by class too (an extension)"),
)


def read_method_options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values by field name of the options that were given as ``texts`` by field name.

    Raises InputError, in one line and naming the option, for text that cannot be read.
    """
    values = {}
    for option in METHOD_OPTIONS:
        if option.field not in texts:
            continue
        text = texts[option.field]
        try:
            values[option.field] = option.parse(text)
        except InputError as error:
            raise InputError(f"{option.flag}: {error}") from error
        except ValueError as error:
            kind = "a whole number" if option.parse is whole_number else "a number"
            raise InputError(f"{option.flag} {shown(text)}: must be {kind}") from error
    return values


def as_arguments(settings: Settings) -> dict[str, str | bool]:
    """Every method option of ``settings`` by flag name: flags as bool, others as text that reads back the same."""
    result: dict[str, str | bool] = {}
    for option in METHOD_OPTIONS:
        value = getattr(settings, option.field)
        if option.field == "skip_steps":
            value = settings.start_step
        if option.field == "class_values":
            if value is None:
                continue
            value = ",".join(repr(grey) for grey in value)
        text = value if option.metavar is None else "none" if value is None else str(value)
        result[option.flag.removeprefix("--")] = text
    return result
