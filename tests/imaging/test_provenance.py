from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaging.errors import InputError
from imaging.images import write_png
from imaging.provenance import KEY, Provenance, changed_inputs, command_line, file_sha256, read_provenance

PIXELS = np.zeros((20, 20, 3), dtype=np.uint8)

NASTY = [
    "plain",
    "",
    "two words",
    "it's",
    '"$HOME" `id` \\',
    "-rf",
    "--seed",
    "Ki-67 ≥ 20 %",
    "a\nb\tc\x1b[31m",
    "'\n'",
]


def save_text(path: Path, text: str) -> Path:
    write_png(path, PIXELS, {KEY: text})
    return path


def test_record_survives_the_png(tmp_path: Path) -> None:
    record = Provenance(
        version="0.1.0",
        command="generate",
        arguments={
            "origin": "a b.png",
            "target-mask": ["x.png", "ü.png"],
            "seed": 2**63,
            "contrast": 1.67,
            "none": None,
        },
        inputs={"a b.png": "0" * 64},
        details={"weights": "demo", "torch": "2.13", "classes": ["a", "b"], "fresh": 0.1, "flag": True},
    )
    write_png(tmp_path / "a.png", PIXELS, record.text())
    assert read_provenance(tmp_path / "a.png") == record


def test_file_name_that_is_not_unicode_survives(tmp_path: Path) -> None:
    name = os.fsdecode(b"slide-\xff.png")
    write_png(tmp_path / "a.png", PIXELS, Provenance("1", "generate", {"origin": name}).text())
    record = read_provenance(tmp_path / "a.png")
    assert record.arguments["origin"] == name
    assert r"\xff" in command_line(record)


def test_values_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Provenance("1", "generate", {"contrast": float("nan")}).text()
    with pytest.raises(TypeError):
        Provenance("1", "generate", {"origin": Path("a.png")}).text()  # type: ignore[dict-item]


def test_command_line_gives_the_options() -> None:
    arguments = {
        "origin": "my slide.png",
        "target-mask": ["a.png", "b c.png"],
        "seed": 7,
        "fresh-noise": 0.1,
        "cross-attn-64": "10:90",
        "classes": None,
        "quiet": False,
        "loud": True,
        "empty": [],
    }
    assert command_line(Provenance("1", "generate", arguments)) == (
        "python cli.py generate --origin 'my slide.png' --target-mask a.png 'b c.png' --seed 7 --fresh-noise 0.1 "
        "--cross-attn-64 10:90 --loud"
    )


@pytest.mark.parametrize("value", [*NASTY, -1e-05, 1e22, -3, 0.1])
def test_argparse_reads_the_value_back_after_bash(value: str | float) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    line = command_line(Provenance("1", "generate", {"before": 1, "value": value, "after": 2}), "printf '%s\\0'")
    assert line.isprintable()
    words = subprocess.run([bash, "-c", line], capture_output=True, check=True).stdout.decode().split("\0")[1:-1]
    parser = argparse.ArgumentParser()
    for name in ("--before", "--after", "--seed"):
        parser.add_argument(name, type=int)
    parser.add_argument("--value", type=type(value))
    parsed = parser.parse_args(words)
    assert parsed.value == value
    assert (parsed.before, parsed.after) == (1, 2)


def test_printable_values_need_no_bash() -> None:
    values = [value for value in NASTY if value.isprintable()]
    parser = argparse.ArgumentParser()
    parser.add_argument("--several", nargs="+", action="extend")
    for several in (values, [value for value in values if not value.startswith("-")]):
        words = shlex.split(command_line(Provenance("1", "generate", {"several": several})))
        assert parser.parse_args(words[3:]).several == several


def test_picture_without_a_record_is_an_input_error(tmp_path: Path) -> None:
    write_png(tmp_path / "bare.png", PIXELS, {"Software": "else"})
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    whole = save_text(tmp_path / "cut.png", "{}").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    for name, words in [
        ("bare.png", "no record"),
        ("a.jpg", "not a PNG"),
        ("a.bmp", "not a PNG"),
        ("cut.png", "damaged"),
        ("none.png", "no such file"),
    ]:
        with pytest.raises(InputError, match=rf"{name}: .*{words}"):
            read_provenance(tmp_path / name)


GOOD = {"program": "stainloom", "version": "1", "command": "generate", "arguments": {}, "inputs": {}, "details": {}}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "null",
        json.dumps({**GOOD, "program": "other"}),
        json.dumps({**GOOD, "version": 1}),
        json.dumps({**GOOD, "command": "generate; rm -rf ~"}),
        json.dumps({**GOOD, "arguments": {"seed; rm -rf ~": 1}}),
        json.dumps({**GOOD, "arguments": {"seed": {"a": 1}}}),
        json.dumps({**GOOD, "arguments": {"seed": [[1]]}}),
        json.dumps({**GOOD, "inputs": []}),
        json.dumps({key: value for key, value in GOOD.items() if key != "details"}),
    ],
)
def test_forged_record_is_an_input_error(tmp_path: Path, content: str) -> None:
    path = save_text(tmp_path / "a.png", content)
    with pytest.raises(InputError, match=r"a\.png: its record cannot be read"):
        read_provenance(path)


def test_whole_record_is_read_from_the_same_json(tmp_path: Path) -> None:
    assert read_provenance(save_text(tmp_path / "a.png", json.dumps(GOOD))) == Provenance("1", "generate", {})


def test_changed_and_missing_inputs_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("same", "changed", "missing")]
    for path in paths:
        path.write_bytes(path.name.encode())
    inputs = {str(path): file_sha256(path) for path in paths}
    assert inputs[str(paths[0])] == hashlib.sha256(b"same").hexdigest()
    paths[1].write_bytes(b"other")
    paths[2].unlink()
    assert changed_inputs(Provenance("1", "generate", {}, inputs)) == [str(path) for path in paths[1:]]


def test_hash_of_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        file_sha256(tmp_path / "none")
