"""What `dataset` refuses: in lines that name the thing and the fix, with code 2, before anything is started."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import cli
from tests.dataset.annotated import arguments, draw, run


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rounds", "0"], "--rounds 0: must be from 1"),
        (["--subset", "0"], "--subset"),
        (["--subset", "nan"], "--subset"),
        (["--split", "test"], "--split test: there is no such split"),
        (["--shard", "3/2"], "--shard 3/2"),
        (["--shard", "0/2"], "--shard 0/2"),
        (["--shard", "1/2", "--ray", "local"], "--ray"),
        (["--export", "coco"], "--export coco"),
        (["--min-fidelity", "2"], "--min-fidelity"),
        (["--masks", "/nowhere"], "/nowhere"),
        (["--rounds", "500"], "--rounds 500"),
        (["--demo"], "--demo"),
        (["--plan", "--status"], "--plan, --status and --remake"),
        (["--classes", "a=0,b=3"], "p0.png"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_bad_requests_end_with_2_and_start_nothing(source, tiny_folder, tmp_path, capsys, more, message) -> None:
    assert run(source, tiny_folder, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not list((tmp_path / "out").glob("images/*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--output", "a\0b"),
        ("--output", "pipe"),
        ("--output", "loop"),
        ("--output", "x" * 300),
        ("--masks", "a\0b"),
        ("--masks", "pipe"),
        ("--weights", "pipe"),
        ("--weights", "loop"),
        ("--split", "\x1b[2K"),
        ("--shard", "\udcff/1"),
        ("--remake", "\x1b"),
    ],
)
def test_hostile_values_are_refused_in_one_line(
    source, tiny_folder, tmp_path, capsys, monkeypatch, option, value
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    assert run(source, tiny_folder, tmp_path / "out", option, value) == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 1
    assert "unforeseen" not in told
    assert told.replace("\n", "").isprintable()


@pytest.mark.parametrize("value", ["a\0b", "pipe", "loop", "/dev/zero", "x" * 300, "\udcff"])
@pytest.mark.parametrize("more", [[], ["--status"], ["--remake", "r1-0"]])
def test_hostile_inputs_are_refused_in_one_line(tiny_folder, tmp_path, capsys, monkeypatch, value, more) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    assert cli.main([*arguments(tiny_folder, tmp_path / "out", *more), value]) == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 1
    assert "unforeseen" not in told


def test_one_corrupt_image_among_hundreds_is_found_before_any_work(tiny_folder, tmp_path, capsys) -> None:
    draw(tmp_path / "drawn", 1)
    for part in ("images", "masks"):
        (tmp_path / "in" / part).mkdir(parents=True)
        for number in range(300):
            shutil.copy(tmp_path / "drawn" / part / "p0.png", tmp_path / "in" / part / f"{number}.png")
    path = tmp_path / "in" / "images" / "217.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert run(tmp_path / "in", tiny_folder, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 2
    assert "217.png" in told
    assert "1 problem, so nothing was started" in told
    assert not list((tmp_path / "out" / "images").iterdir())


def test_a_slide_in_two_splits_is_refused(source, tiny_folder, tmp_path, capsys) -> None:
    rows = [
        {"file_name": f"images/p{i}.png", "mask_file_name": f"masks/p{i}.png", "split": split, "slide_id": "s1"}
        for i, split in enumerate(("train", "train", "test"))
    ]
    shutil.copytree(source, tmp_path / "in")
    (tmp_path / "in" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(tmp_path / "in", tiny_folder, tmp_path / "out") == 2
    assert "slide s1: has images in 2 splits" in capsys.readouterr().err


def test_folders_that_hold_other_things_are_left_alone(source, tiny_folder, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert run(source, tiny_folder, tmp_path / "out") == 2
    assert "not empty" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
    assert run(source, tiny_folder, source / "out") == 2
    assert "must not lie among the inputs" in capsys.readouterr().err
    assert not (source / "out").exists()


def test_status_of_what_is_no_dataset(tmp_path, capsys) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        assert cli.main(["dataset", str(path), "--status"]) == 2
        assert "no dataset's folder" in capsys.readouterr().err
