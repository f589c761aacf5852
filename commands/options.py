"""Options on the command line: the one place that knows how they are written, read from text and written as text again.

What there is to say of an option stands at its field (`sampler.option`), of `Settings` and of the commands' requests.
"""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from imaging.errors import InputError
from model.files import shown_name
from sampler.errors import SettingError
from sampler.option import Option, options_of
from sampler.settings import Settings, Span


class Codec(NamedTuple):
    """How values of one type are read from text and from JSON; both raise ValueError saying what they must be."""

    parse: Callable[[str], Any]
    from_json: Callable[[Any], Any]


def whole_number(text: str) -> int:
    """``text`` of ASCII digits, at most twenty, with or without a sign. Raises ValueError for any other."""
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text) is None:
        raise ValueError("must be a whole number")
    return int(text)


def number(text: str) -> float:
    """As ``float``. Raises ValueError."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError("must be a number") from error


def numbers(text: str) -> tuple[float, ...]:
    """``0.1,0.5`` -> (0.1, 0.5). Raises ValueError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError("must be numbers with commas, such as 0.1,0.5") from error


def words(text: str) -> tuple[str, ...]:
    """``cat,dog`` -> ("cat", "dog")."""
    return tuple(text.split(","))


def _json(kind: type, what: str, *, but: type | None = None) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind) or (but is not None and isinstance(value, but)):
            raise ValueError(f"must be {what}")
        return value

    return read


def _json_whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 10**9:
        raise ValueError("must be a whole number")
    return value


def _json_number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        raise ValueError("must be a number")
    return float(value)


def _json_numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of numbers")
    return tuple(_json_number(each) for each in value)


def _json_words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of words")
    return tuple(value)


def _json_span(value: Any) -> Span:
    if not isinstance(value, str):
        raise ValueError('must be a range such as "10:90"')
    return Span.parse(value)


TEXT = Codec(str, _json(str, "text"))
CODECS: Mapping[Any, Codec] = {
    str: TEXT,
    Path: Codec(Path, _json(str, "text")),
    bool: Codec(bool, _json(bool, "true or false")),
    int: Codec(whole_number, _json_whole),
    float: Codec(number, _json_number),
    Span: Codec(Span.parse, _json_span),
    tuple[float, ...]: Codec(numbers, _json_numbers),
    tuple[str, ...]: Codec(words, _json_words),
}


SEVERAL: Mapping[Any, Callable[[str], Any]] = {tuple[Path, ...]: Path, tuple[str, ...]: str}
"""Options of several words, and how one of them is read."""

type_hints = cache(get_type_hints)  # it evaluates every annotation of a class anew


def codec_of(kind: type, name: str) -> Codec:
    """The codec of the field ``name`` of the dataclass ``kind``. A range that may be None is written ``none`` then."""
    hint = type_hints(kind)[name]
    given = [each for each in get_args(hint) if each is not types.NoneType]
    if get_origin(hint) in (Union, types.UnionType):
        codec = CODECS[given[0]]
        if given[0] is Span:
            return Codec(*(_or_none(read) for read in codec))
        return codec
    return TEXT if get_origin(hint) is Literal else CODECS[hint]


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value == "none" else read(value)


def flag_of(name: str) -> str:
    """``cross_attn_64`` -> ``--cross-attn-64``."""
    return "--" + name.replace("_", "-")


def add_options(group: argparse._ArgumentGroup, kind: type, names: Iterable[str] | None = None) -> None:
    """Add the options of the dataclass ``kind`` to a parser's ``group``, or those among ``names``, in their order.

    What is not given stays out of the namespace: defaults are the dataclass's. Old names work, and are not shown.
    """
    known = {field.name: (field, said) for field, said in options_of(kind)}
    for name in known if names is None else names:
        field, said = known[name]
        more: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": name}
        if said.metavar is None:
            more |= {"action": "store_const", "const": "yes"}
        else:
            more["metavar"] = said.metavar
        if said.bare is not None:
            more |= {"nargs": "?", "const": said.bare}
        if type_hints(kind)[name] in SEVERAL:
            more |= {"nargs": "+", "action": "extend"}
        group.add_argument(flag_of(name), help=described(field, said).replace("%", "%%"), **more)
        for alias in said.aliases:
            group.add_argument(flag_of(alias), help=argparse.SUPPRESS, **more)


def described(field: Field[Any], said: Option) -> str:
    """Help of one option: what it does, and its default in brackets."""
    default = default_of(field, said)
    return f"{said.help} ({default})" if default else said.help


def default_of(field: Field[Any], said: Option) -> str:
    """The default as help and tables show it; empty if there is nothing to show."""
    if said.shown is not None:
        return said.shown
    if said.metavar is None or field.default is MISSING or field.default in (None, ()):
        return ""
    return f"{field.default:g}" if isinstance(field.default, float) else as_text(field.default)


def as_text(value: Any) -> str:
    """A value as it is given on the command line."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(each if isinstance(each, str) else repr(each) for each in value)
    return str(value)


def read_options(kind: type, texts: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name of the options of ``kind`` that were given, as ``texts`` by field name.

    Raises InputError, in one line and naming the option, for text that cannot be read.
    """
    values = {}
    for field, _ in options_of(kind):
        if field.name not in texts:
            continue
        text = texts[field.name]
        if isinstance(text, list):
            read = SEVERAL[type_hints(kind)[field.name]]
            values[field.name] = tuple(read(each) for each in text)
            continue
        try:
            values[field.name] = codec_of(kind, field.name).parse(text)
        except ValueError as error:
            raise InputError(f"{flag_of(field.name)} {shown_name(text)}: {error}") from error
    return values


def read_json_options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by field name from a JSON object: ranges as ``"A:B"`` or ``"none"``, several numbers as a list.

    Raises SettingError for a name that is no field of `Settings` and for a value of another type.
    """
    names = {field.name for field in fields(Settings)}
    old_names = {alias: field.name for field, said in options_of(Settings) for alias in said.aliases}
    values = {}
    for name, value in table.items():
        field = old_names.get(name, name)
        if field not in names:
            raise SettingError(name, value, f"is no setting; known are {', '.join(sorted(names))}")
        try:
            values[field] = codec_of(Settings, field).from_json(value)
        except ValueError as error:
            raise SettingError(name, value, str(error)) from error
    return values


def settings_record(settings: Settings) -> dict[str, str | bool]:
    """Every option of ``settings`` by flag name: flags as bool, others as text that reads back the same."""
    result: dict[str, str | bool] = {}
    for field, said in options_of(Settings):
        value: Any = settings.start_step if field.name == "skip_steps" else getattr(settings, field.name)
        if field.name in ("class_values", "domain", "nouns", "window") and value is None:
            continue
        name = flag_of(field.name).removeprefix("--")
        result[name] = value if said.metavar is None else as_text(value)
    return result


def by_present_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` of a record, by flag name, of which some may be older than their options' names."""
    present = {
        flag_of(alias).removeprefix("--"): flag_of(field.name).removeprefix("--")
        for field, said in options_of(Settings)
        for alias in said.aliases
    }
    return {present.get(name, name): value for name, value in arguments.items()}


def listing(values: Mapping[str, Any]) -> str:
    """Settings as words of a command line."""
    return " ".join(f"{flag_of(name)} {as_text(value)}" for name, value in values.items())


def table(kind: type, names: Iterable[str]) -> str:
    """A Markdown table of options: flag, default, what it does."""
    known = {field.name: (field, said) for field, said in options_of(kind)}
    rows = [f"| `{flag_of(name)}` | {default_of(*known[name]) or 'off'} | {known[name][1].help} |" for name in names]
    return "\n".join(["| option | default | what it does |", "| --- | --- | --- |", *rows])


def with_flags(text: str, kinds: Iterable[type]) -> str:
    """A message in which fields of ``kinds`` named in backquotes are written as their flags."""
    known = {field.name for kind in kinds for field, _ in options_of(kind)}
    return re.sub(r"`(\w+)`", lambda found: flag_of(found[1]) if found[1] in known else found[0], text)
