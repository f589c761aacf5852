"""Manifests in CSV, JSON lines and Parquet."""

from __future__ import annotations

import json

import pytest

from dataset.layouts import read_source
from dataset.tables import read_manifest
from imaging.errors import InputError, ProblemsError

ROWS = [
    {
        "file_name": "images/a, b.png",
        "mask_file_name": "masks/a.png",
        "split": "train",
        "slide_id": "s1",
        "patient_id": "1",
    },
    {"file_name": "images/ü.png", "mask_file_name": "masks/ü.png", "split": "val", "slide_id": "s2", "patient_id": "2"},
]


def write(path, rows) -> None:
    if path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_form_gives_the_same_pairs(tmp_path, suffix) -> None:
    path = tmp_path / f"manifest{suffix}"
    write(path, ROWS)
    pairs = read_manifest(path)
    assert [(pair.name, pair.split, pair.slide, pair.patient) for pair in pairs] == [
        ("images/a, b.png", "train", "s1", "1"),
        ("images/ü.png", "val", "s2", "2"),
    ]
    assert pairs[1].mask == tmp_path / "masks" / "ü.png"
    assert read_source(tmp_path).pairs == read_source(path).pairs == tuple(pairs)


def test_numbers_are_ids_and_other_columns_are_passed_over(tmp_path) -> None:
    path = tmp_path / "metadata.jsonl"
    write(path, [{"file_name": "a.png", "mask_file_name": "b.png", "patient_id": 17, "slide_id": None, "x": [1, {}]}])
    (pair,) = read_manifest(path)
    assert (pair.patient, pair.slide, pair.split) == ("17", "", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "no column file_name nor mask_file_name"),
        ("m.csv", "file_name\na.png\n", "no column mask_file_name"),
        ("m.csv", "file_name,mask_file_name,split,split\n", "column split twice"),
        ("m.csv", "file_name,mask_file_name\na.png\n", "line 2: has 1 values for 2 columns"),
        ("m.csv", 'file_name,mask_file_name\n"a.png,b.png\n', "not CSV"),
        ("m.csv", "file_name,mask_file_name\n", "lists no images"),
        ("m.jsonl", "", "lists no images"),
        ("m.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("m.jsonl", '{"file_name": \n', "line 1: not JSON"),
        ("m.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("m.parquet", "PAR1", "pyarrow|not a Parquet file"),
    ],
)
def test_what_is_no_manifest_is_told_with_its_place(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / name)


def test_every_unusable_row_is_told(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    bad = [
        {"file_name": "", "mask_file_name": "b.png"},
        {"file_name": "a.png"},
        {"file_name": ["a.png"], "mask_file_name": "b.png"},
        {"file_name": "a\u0000.png", "mask_file_name": "b.png"},
        {"file_name": "a.png", "mask_file_name": "b.png", "split": True},
        {"file_name": "a\ud800.png", "mask_file_name": "b.png"},
    ]
    write(path, [*bad, ROWS[0]])
    with pytest.raises(ProblemsError) as caught:
        read_manifest(path)
    assert [f"line {number}" in problem for number, problem in enumerate(caught.value.problems, 1)] == [True] * len(bad)
    assert all(problem.isprintable() for problem in caught.value.problems)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80abc"])
def test_text_that_is_not_utf_8_is_told(tmp_path, content) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(InputError, match="not UTF-8"):
        read_manifest(tmp_path / "m.csv")
