"""Killed at any moment, on a full disk, among other workers: nothing is lost or double, and the bytes are the same."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

import imaging.output
from dataset.folder import Folder
from tests.dataset.annotated import contents, draw, rows, run

KILLS = int(os.environ.get("FAULT_KILLS", "20"))
ROUNDS = ("--rounds", "4", "--batch-size", "2")


def quietly(source: Path, weights: Path, output: Path) -> None:
    """A child's whole life."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os._exit(run(source, weights, output, *ROUNDS))


@pytest.fixture(scope="module")
def server():
    """Children begin with everything imported, so that they are killed at work rather than at the start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["commands.dataset", "commands.progress", "tests.dataset.test_dataset_faults"])
    return context


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    draw(folder, 4)
    return folder


@pytest.fixture(scope="module")
def whole(source, tiny_folder, tmp_path_factory) -> dict[str, str]:
    """What an uninterrupted run gives."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert run(source, tiny_folder, output, *ROUNDS) == 0
    return contents(output)


def images_there(output: Path) -> int:
    return len(list(output.glob("work/rows/r*")))


def wait_for_images(output: Path, count: int, child) -> None:
    """Until there are ``count`` images, or ``child`` has ended."""
    deadline = time.monotonic() + 60
    while images_there(output) < count and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_killed_again_and_again_it_goes_on_where_it_was(server, source, tiny_folder, whole, tmp_path) -> None:
    rng = random.Random(5)
    kills, at = 0, Counter[int]()
    folder = 0
    while kills < KILLS:
        output = tmp_path / f"out{folder}"
        folder += 1
        # Of two at once, one may find what the other has left.
        finished = False
        while not finished:
            children = [
                server.Process(target=quietly, args=(source, tiny_folder, output)) for _ in range(rng.choice((1, 1, 2)))
            ]
            for child in children:
                child.start()
            for child in children:
                if kills < KILLS:
                    # By images and not by time alone: on a busy machine all kills would come before the first.
                    wait_for_images(output, images_there(output) + rng.choice((0, 1, 2)), child)
                    child.join(rng.uniform(0.0, 1.0))
                else:
                    child.join(60)
                if child.is_alive():
                    child.kill()
                    kills += 1
                    at[images_there(output)] += 1
                child.join(10)
            finished = any(child.exitcode == 0 for child in children) and (output / "checksums.sha256").exists()
            if kills >= KILLS and not finished:
                assert run(source, tiny_folder, output, *ROUNDS) == 0
                finished = True
        found = contents(output)
        assert found == whole
        assert len({row["id"] for row in rows(output)}) == len(rows(output)) == 16
        assert not list(output.rglob("*.part"))
    print(f"{kills} kills in {folder} folders, with so many images there: {dict(sorted(at.items()))}")
    assert kills >= KILLS
    assert len(at) > 2


def test_two_workers_at_once_make_no_image_twice(server, source, tiny_folder, whole, tmp_path) -> None:
    children = [server.Process(target=quietly, args=(source, tiny_folder, tmp_path / "out")) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert contents(tmp_path / "out") == whole
    beats = [path.read_text() for path in (tmp_path / "out" / "work" / "workers").glob("*.json")]
    assert sum(int(text.split('"done": ')[1].split(",")[0]) for text in beats) == 16


@pytest.mark.parametrize("allowed", [0, 10, 25])
def test_a_full_disk_ends_the_run_and_loses_nothing(
    source, tiny_folder, whole, tmp_path, monkeypatch, capsys, allowed
) -> None:
    left = allowed
    write = Path.write_bytes

    def write_until_full(self: Path, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    assert run(source, tiny_folder, tmp_path / "out", *ROUNDS) == 2
    assert "the disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    there = Folder(tmp_path / "out").done()
    assert len(there) == allowed // 3
    assert run(source, tiny_folder, tmp_path / "out", *ROUNDS) == 0
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_under_the_manifests_leaves_the_old_ones(source, tiny_folder, whole, tmp_path, monkeypatch) -> None:
    output = tmp_path / "out"
    assert run(source, tiny_folder, output, *ROUNDS) == 0
    (output / "work" / "finished").unlink()
    replace = os.replace

    def full(one, other) -> None:
        if str(other).endswith("metadata.jsonl"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(one, other)

    monkeypatch.setattr(imaging.output.os, "replace", full)
    assert run(source, tiny_folder, output, *ROUNDS) == 2
    monkeypatch.undo()
    assert run(source, tiny_folder, output, *ROUNDS) == 0
    assert contents(output) == whole


@pytest.mark.parametrize("text", ["", "{", "[]", '{"items": 3}', "nul", "\x00"])
def test_a_damaged_plan_or_settings_are_told(source, tiny_folder, tmp_path, capsys, text) -> None:
    output = tmp_path / "out"
    assert run(source, tiny_folder, output) == 0
    kept = (output / "work" / "plan.json").read_text()
    (output / "work" / "plan.json").write_text(text)
    assert run(source, tiny_folder, output) == 2
    assert "plan" in capsys.readouterr().err
    (output / "work" / "plan.json").write_text(kept)
    (output / "settings.json").write_text(text)
    assert run(source, tiny_folder, output) == 2
    assert "settings" in capsys.readouterr().err


def test_a_row_that_is_not_whole_is_made_again(source, tiny_folder, whole, tmp_path) -> None:
    output = tmp_path / "out"
    assert run(source, tiny_folder, output, *ROUNDS) == 0
    (output / "work" / "finished").unlink()
    for number, path in enumerate(sorted((output / "work" / "rows").iterdir())[:4]):
        path.write_text(("", "{", "[]", '{"id": 3}')[number])
    time.sleep(0.01)
    assert run(source, tiny_folder, output, *ROUNDS) in (0, 1)
    assert run(source, tiny_folder, output, *ROUNDS) == 0
    assert contents(output) == whole
