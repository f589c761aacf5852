"""JSON from outside, field by field: every value is of its type and within bounds, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from imaging.errors import InputError, brief
from imaging.rawfile import read_bytes, shown

MOST_BYTES = 2**26
MOST_WHOLE = 2**62
_LONGEST = 100_000


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: the file cannot be read, is larger than 64 MiB, or no JSON.
    """
    data = read_bytes(path)
    if len(data) > MOST_BYTES:
        raise InputError(f"{shown(path)}: larger than {MOST_BYTES >> 20} MiB; no file of a review is")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)}: not JSON ({brief(str(error))}); save or copy it again") from error


@dataclass(frozen=True)
class Fields:
    """A JSON object with the place it stands in, for messages. Each method raises InputError."""

    where: str
    content: Mapping[str, Any]

    def _refused(self, name: str, what: str) -> InputError:
        value = self.content.get(name)
        kind = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
        there = (kind or brief(repr(value))) if name in self.content else "missing"
        return InputError(f"{self.where}: {name} is {there}, and must be {what}")

    def text(self, name: str, longest: int = _LONGEST) -> str:
        """Text of so many characters at most."""
        value = self.content.get(name)
        if not isinstance(value, str) or len(value) > longest:
            raise self._refused(name, f"text of at most {longest} characters")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.content.get(name)
        if not isinstance(value, bool):
            raise self._refused(name, "true or false")
        return value

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """One of these words."""
        value = self.content.get(name)
        if not isinstance(value, str) or value not in known:
            raise self._refused(name, f"one of {', '.join(known)}")
        return value

    def whole(self, name: str, below: int = MOST_WHOLE + 1, low: int = 0) -> int:
        """A whole number from ``low``, less than ``below``."""
        value = self.content.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < below:
            raise self._refused(name, f"a whole number from {low} to {below - 1}")
        return value

    def number(self, name: str, most: float) -> float:
        """A number from 0 to ``most``."""
        value = self.content.get(name)
        if not _is_number(value) or not 0 <= value <= most:
            raise self._refused(name, f"a number from 0 to {most:g}")
        return float(value)

    def whole_list(self, name: str, count: int, below: int = MOST_WHOLE + 1) -> list[int]:
        """So many whole numbers less than ``below``."""
        value = self.content.get(name)
        if not isinstance(value, list) or len(value) != count:
            raise self._refused(name, f"{count} whole numbers")
        return [Fields(self.where, {name: each}).whole(name, below) for each in value]

    def shares(self, name: str) -> list[float]:
        """Numbers from 0 to 1."""
        value = self.content.get(name)
        if not isinstance(value, list) or any(not _is_number(each) or not 0 <= each <= 1 for each in value):
            raise self._refused(name, "numbers from 0 to 1")
        return [float(each) for each in value]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self.content.get(name)
        if not isinstance(value, list) or any(not isinstance(each, str) for each in value):
            raise self._refused(name, "a list of texts")
        return list(value)

    def objects(self, name: str) -> list[Fields]:
        """A list of objects."""
        value = self.content.get(name)
        if not isinstance(value, list) or any(not isinstance(each, dict) for each in value):
            raise self._refused(name, "a list of objects")
        return [Fields(f"{self.where} {name} {place}", each) for place, each in enumerate(value, start=1)]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
