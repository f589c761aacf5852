"""The settings that a weights folder recommends, read from its ``recommended.json``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from commands.options import read_json_options
from imaging.errors import InputError
from model.files import is_file, read_json, shown, shown_name
from sampler.errors import SettingError
from sampler.presets import PRESETS, in_proportion


def read_recommended(weights: Path) -> dict[str, Any]:
    """Settings that a weights folder recommends in its ``recommended.json``, by field name; empty without one.

    Raises InputError, naming the file and the field, for a file that is not such a table of usable values.
    """
    path = weights / "recommended.json"
    if not is_file(path):
        return {}
    try:
        values = read_json_options(read_json(path))
        replace(PRESETS["winter"], **in_proportion(PRESETS["winter"], values), **values).check()
    except SettingError as error:
        name, value = shown_name(error.field), shown(error.value)
        raise InputError(f"{path}: {name} {value}: {error.reason}; repair or remove the file") from error
    return values
