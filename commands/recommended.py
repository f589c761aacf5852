"""The settings that a weights folder recommends, read from its ``recommended.json``."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from imaging.errors import InputError
from model.files import is_file, read_json, shown
from sampler.settings import PRESETS, SPANS, Settings, Span, in_proportion


def read_recommended(weights: Path) -> dict[str, Any]:
    """Settings that a weights folder recommends in its ``recommended.json``, by field name; empty without one.

    Raises InputError, naming the file and the field, for a table of other values, and CheckpointError for a file that
    is no table.
    """
    path = weights / "recommended.json"
    if not is_file(path):
        return {}
    table = read_json(path)
    known = {field.name: field.default for field in fields(Settings)}
    for name in table:
        if name not in known:
            raise InputError(f"{path}: {shown(name)} is no setting; known are {', '.join(sorted(known))}")
    try:
        values = {name: from_json(name, value, known[name]) for name, value in table.items()}
        replace(PRESETS["winter"], **in_proportion(PRESETS["winter"], values), **values).check()
    except InputError as error:
        raise InputError(f"{path}: {error}; repair or remove the file") from error
    return values


def from_json(name: str, value: Any, default: Any) -> Any:
    """A field's value from its JSON form: ranges come as ``"A:B"`` or ``"none"``, greys as a list.

    ``default`` tells the type of a field that is none of these. Raises InputError for a value of another.
    """
    if name in SPANS:
        if not isinstance(value, str):
            raise InputError(f'{name} {shown(value)}: must be a range such as "10:90"')
        return None if value == "none" and name != "adain_range" else Span.parse(value)
    if name == "class_values":
        if not isinstance(value, list) or not 0 < len(value) <= 256 or not all(_is_real(v) for v in value):
            raise InputError(f"{name} {shown(value)}: must be a list of greys from 0 to 1")
        return tuple(float(v) for v in value)
    if name == "skip_steps" or (isinstance(default, int) and not isinstance(default, bool)):
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 10**9:
            raise InputError(f"{name} {shown(value)}: must be a whole number")
        return value
    if isinstance(default, float):
        if not _is_real(value):
            raise InputError(f"{name} {shown(value)}: must be a number")
        return float(value)
    if not isinstance(value, type(default)):
        kind = "true or false" if isinstance(default, bool) else "text"
        raise InputError(f"{name} {shown(value)}: must be {kind}")
    return value


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
