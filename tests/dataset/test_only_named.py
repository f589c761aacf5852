"""`dataset --only`: images and targets are those whose names a text file has, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.dataset.annotated import draw, rows, run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs. Not to be changed."""
    folder = tmp_path_factory.mktemp("source")
    draw(folder, 5)
    return folder


def test_only_named_images_are_origins_and_targets(source: Path, tiny_folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("images/p3.png\n\nimages/p1.png\n")
    assert run(source, tiny_folder, tmp_path / "out", "--only", str(names), "--rounds", "2") == 0
    made = rows(tmp_path / "out")
    assert {row["origin"] for row in made} == {"images/p1.png", "images/p3.png"}
    assert {row["target"] for row in made} <= {"masks/p1.png", "masks/p3.png"}
    # Their order does not matter; others are another dataset.
    names.write_text("images/p1.png\nimages/p3.png\n")
    assert run(source, tiny_folder, tmp_path / "out", "--only", str(names), "--rounds", "2") == 0
    names.write_text("images/p1.png\nimages/p2.png\n")
    assert run(source, tiny_folder, tmp_path / "out", "--only", str(names), "--rounds", "2") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"images/p9.png\n", "there is no such image"),
        (b"\n\n", "has no names"),
        (b"", "has no names"),
        (b"\xff\n", "not UTF-8"),
        (None, "no such file"),
        ("fifo", "not a file"),
    ],
)
def test_files_of_names_that_cannot_be_used_are_refused(
    source: Path,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | str | None,
    message: str,
) -> None:
    names = tmp_path / "names.txt"
    if isinstance(content, bytes):
        names.write_bytes(content)
    elif content == "fifo":
        os.mkfifo(names)
    assert run(source, tiny_folder, tmp_path / "out", "--only", str(names)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.glob("out/images/*"))
