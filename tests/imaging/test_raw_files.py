"""What is no ordinary file is refused before it is opened, in one line that says so once."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from imaging import rawfile
from imaging.errors import InputError
from imaging.rawfile import MAX_BYTES, read_bytes, shown


def refusal(path: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        read_bytes(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content\n\x00")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b") == b"content\n\x00"


def test_pipes_sockets_devices_and_folders_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    os.mkfifo("pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("pipe", "folder", "zero", "socket"):
            assert refusal(name) == f"{name}: not a file; give the path of an image file"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    looked_at = os.stat(tmp_path / "file")
    with monkeypatch.context() as patched:
        patched.setattr(rawfile.os, "stat", lambda path: looked_at)
        assert "not a file" in refusal(tmp_path / "pipe")


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert refusal(tmp_path / "sparse").startswith(f"{tmp_path}/sparse: larger than 1 GiB; cut it")
    monkeypatch.setattr(rawfile, "MAX_BYTES", 100)
    monkeypatch.setattr(rawfile, "_check_kind", lambda name, status: None)  # as if it grew after that
    (tmp_path / "grown").write_bytes(bytes(101))
    assert "larger than" in refusal(tmp_path / "grown")


def test_a_file_that_has_nothing_yet_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "log")  # as some files below /proc, which call themselves regular
    writer = os.open(tmp_path / "log", os.O_RDWR)
    monkeypatch.setattr(stat, "S_ISREG", lambda mode: True)
    try:
        assert "nothing to read there yet" in refusal(tmp_path / "log")
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "'': no such file"),
        ("none/a.png", "none/a.png: no such file"),
        ("a\nb\x1b[2K", r"a\nb\x1b[2K: no such file"),
        ("a\0b", r"a\x00b: cannot be read (embedded null byte)"),
        ("x" * 300, "x: cannot be read (File name too long)"),
        ("x" * 5000, "…"),
        ("\udcff", r"\udcff: no such file"),
        ("\ud800", r"\ud800: cannot be read"),
    ],
    ids=lambda text: repr(text[:8]),
)
def test_names_that_cannot_be_are_told_in_one_line(name: str, words: str) -> None:
    message = refusal(name)
    assert words in message
    assert len(message) < 500


def test_a_loop_of_links_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "cannot be read (Too many levels of symbolic links)" in refusal(tmp_path / "a")


def test_long_names_are_shown_by_their_ends() -> None:
    assert shown("a" * 200 + "b" * 200) == "a" * 40 + "…" + "b" * 40
    assert shown(b"\xff.png") == r"\udcff.png"
