"""Manifests: a row for each annotated image, in CSV, JSON lines or, where pyarrow is there, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataset.pairs import SourcePair
from imaging.errors import InputError, ProblemsError, brief
from imaging.rawfile import read_bytes, shown

SUFFIXES = (".csv", ".jsonl", ".parquet")
IMAGE, MASK = "file_name", "mask_file_name"
OPTIONAL = ("split", "slide_id", "patient_id")

Row = Mapping[str, Any]


def read_manifest(path: Path) -> list[SourcePair]:
    """The annotated images that a manifest lists. Paths in it are relative to its folder.

    Columns are ``file_name`` and ``mask_file_name``, and, where known, ``split``, ``slide_id`` and ``patient_id``;
    others are passed over.

    Raises:
        InputError: the file cannot be read, is no such table, is empty, or a row is not usable (all such rows at once).
    """
    pairs, problems = [], []
    for place, row in read_rows(path):
        try:
            pairs.append(_pair(path.parent, place, row))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise ProblemsError(shown(path), problems)
    if not pairs:
        raise InputError(f"{shown(path)}: lists no images; give a row for each, with {IMAGE} and {MASK}")
    return pairs


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row of a manifest with its place for messages; of a Parquet file the known columns alone.

    Raises:
        InputError: the file cannot be read or is no such table.
    """
    kind = path.suffix.lower()
    return _parquet(path) if kind == ".parquet" else _csv(path) if kind == ".csv" else _json_lines(path)


def _pair(folder: Path, place: str, row: Row) -> SourcePair:
    name, mask = _text(place, row, IMAGE), _text(place, row, MASK)
    for column, value in ((IMAGE, name), (MASK, mask)):
        if not value:
            raise InputError(f"{place}: no {column}; give the path of the {column.removesuffix('_file_name')} file")
    split, slide, patient = (_text(place, row, column) for column in OPTIONAL)
    return SourcePair(name, folder / name, folder / mask, split, slide, patient)


def _text(place: str, row: Row, column: str) -> str:
    value = row.get(column)
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{place}: {column} is {brief(repr(value))}; give text")
    try:
        text = str(value).strip()
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{place}: {column} is a number beyond use; give text") from error
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise InputError(f"{place}: {column} {brief(repr(text))} holds control characters; take them out")
    return text


def _decoded(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [column for column in (IMAGE, MASK) if column not in columns]
    if missing:
        there = brief(", ".join(columns), 100)
        raise InputError(f"{shown(path)}: no column {' nor '.join(missing)} among {there}; add it to the first line")
    twice = [column for column in (IMAGE, MASK, *OPTIONAL) if columns.count(column) > 1]
    if twice:
        raise InputError(f"{shown(path)}: has the column {twice[0]} twice; keep one")


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    lines = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
    try:
        columns = [column.strip() for column in next(lines, [])]
        _check_columns(path, columns)
        for cells in lines:
            if not any(cells):
                continue
            place = f"{shown(path)} line {lines.line_num}"
            if len(cells) != len(columns):
                raise InputError(
                    f"{place}: has {len(cells)} values for {len(columns)} columns; quote values with commas"
                )
            yield place, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{shown(path)} line {lines.line_num}: not CSV ({error}); export it again") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{shown(path)} line {number}"
        row = parse_json(place, line)
        if not isinstance(row, dict):
            raise InputError(f"{place}: not a JSON object; give one on each line")
        yield place, row


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{shown(path)}: Parquet needs pyarrow; pip install pyarrow, or give a CSV file") from error
    data = read_bytes(path)
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        columns = list(table.column_names)
        _check_columns(path, columns)
        wanted = [column for column in (IMAGE, MASK, *OPTIONAL) if column in columns]
        rows = table.select(wanted).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        detail = brief(" ".join(str(error).split()))
        raise InputError(f"{shown(path)}: not a Parquet file that can be read ({detail}); export it again") from error
    for number, row in enumerate(rows, start=1):
        yield f"{shown(path)} row {number}", row


def parse_json(place: str, text: str) -> Any:
    """The value of a JSON ``text`` from outside. Raises InputError, saying the ``place``, for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({brief(str(error))}); export it again") from error


def read_json_file(path: Path) -> Any:
    """The value in a JSON file from outside. Raises InputError."""
    return parse_json(shown(path), _decoded(path))
