"""A dataclass field that says all there is to say of an option: default, placeholder, what it does, what is allowed.

Command lines, help, records and tables are made from it (`commands.options`). How options are written is not known
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from sampler.errors import SettingError

Check = Callable[[Any], str | None]
"""Of a value: None if it can be used, else what it must be."""

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What is said of a field. ``metavar`` stands for a value in help, and None for a flag, which takes none.

    ``shown`` is the default in words, where the value itself does not say it; ``aliases`` are names it had before;
    ``bare`` is the value where none is given after the option's name, if one need not be.
    """

    metavar: str | None
    help: str
    check: Check | None = None
    shown: str | None = None
    aliases: tuple[str, ...] = ()
    bare: str | None = None


def option(
    default: T,
    metavar: str | None,
    help: str,
    *,
    check: Check | None = None,
    shown: str | None = None,
    aliases: tuple[str, ...] = (),
    bare: str | None = None,
) -> T:
    """A field with this ``default`` and an `Option`."""
    made: T = field(default=default, metadata={"option": Option(metavar, help, check, shown, aliases, bare)})
    return made


def options_of(kind: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of the dataclass ``kind`` that are options, in their order."""
    for each in fields(kind):
        if "option" in each.metadata:
            yield each, each.metadata["option"]


def check_options(values: Any) -> None:
    """Raise SettingError for the first field of the dataclass ``values`` whose value cannot be used."""
    for each, said in options_of(type(values)):
        value = getattr(values, each.name)
        reason = None if said.check is None else said.check(value)
        if reason is not None:
            raise SettingError(each.name, value, reason)


def between(low: float, high: float) -> Check:
    """From ``low`` to ``high``, both included; so no NaN."""
    return lambda value: None if low <= value <= high else f"must be from {low:g} to {high:g}"


def at_least(low: int) -> Check:
    """``low`` or more."""
    return lambda value: None if value >= low else f"must be {low} or more"


def one_of(*known: str) -> Check:
    """One of the words ``known``."""
    return lambda value: None if value in known else f"must be one of {', '.join(known)}"


def none_or(check: Check) -> Check:
    """As ``check``, or None."""
    return lambda value: None if value is None else check(value)
