"""`dataset` from files to files: what is written, going on after an end, failures, set-aside images, other engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from dataset.folder import Folder
from dataset.status import describe_status, read_status
from imaging.turns import turn
from tests.commands.running import ROOT
from tests.dataset.annotated import arguments, contents, draw, rows, run


@pytest.fixture(scope="module")
def made(source, tiny_folder, tmp_path_factory) -> Path:
    """A finished dataset. Not to be changed."""
    output = tmp_path_factory.mktemp("made") / "out"
    assert run(source, tiny_folder, output, "--rounds", "2") == 0
    return output


def in_processes(source: Path, weights: Path, output: Path, *more: str, start: tuple[str, ...] = ()) -> int:
    command = [*(start or (sys.executable,)), str(ROOT / "cli.py"), *arguments(weights, output, *more), str(source)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=output.parent)
    print(found.stderr[-3000:])
    return found.returncode


def test_images_masks_and_rows_are_what_the_plan_says(source, made) -> None:
    found = rows(made)
    assert len(found) == 8
    assert sorted({row["round"] for row in found}) == [1, 2]
    for row in found:
        image = np.asarray(Image.open(made / row["file_name"]))
        mask = np.asarray(Image.open(made / row["mask_file_name"]))
        trust = np.asarray(Image.open(made / row["trusted_mask_file_name"]))
        assert (image.shape, mask.dtype, mask.shape) == ((64, 64, 3), np.uint8, (64, 64))
        target = np.asarray(Image.open(source / row["target"]))
        assert np.array_equal(mask, turn(target, row["dihedral"]))
        assert np.array_equal(trust[trust != 255], mask[trust != 255])
        own = np.asarray(Image.open(source / row["origin_mask"]))
        assert not np.array_equal(mask, own)
        assert row["synthetic"] is True
        assert sum(row["class_fractions"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["trusted_share"] == pytest.approx((trust != 255).mean(), abs=1e-4)
        assert row["settings"]["method"]["steps"] == "6"
    by_origin = {row["origin"]: {r["seed"] for r in found if r["origin"] == row["origin"]} for row in found}
    assert all(len(seeds) == 1 for seeds in by_origin.values())


def test_checksums_prove_the_folder_whole(made) -> None:
    lines = (made / "checksums.sha256").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    found = contents(made)
    found.pop("checksums.sha256")
    assert listed == found
    assert {"manifest.jsonl", "metadata.jsonl", "README.md", "plan.csv", "contact_sheets/round-2.png"} <= set(listed)


def test_a_second_run_has_nothing_to_do_and_other_settings_are_refused(source, made, tiny_folder, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    assert run(source, tiny_folder, made, "--rounds", "2") == 0
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    capsys.readouterr()
    assert run(source, tiny_folder, made, "--rounds", "3") == 2
    assert "rounds 2, not 3" in capsys.readouterr().err
    other = made.parent / "other"
    draw(other, 4, seed=9)
    assert run(other, tiny_folder, made, "--rounds", "2") == 2
    assert "begun with another input" in capsys.readouterr().err


def test_what_is_only_planned_can_be_planned_again(source, made, tiny_folder, tmp_path, capsys) -> None:
    for rounds, images in (("3", 12), ("1", 4)):
        assert run(source, tiny_folder, tmp_path / "out", "--rounds", rounds, "--plan") == 0
        assert f"{images} images of 4 origins" in capsys.readouterr().out
    assert run(source, tiny_folder, tmp_path / "out", "--rounds", "2") == 0
    assert contents(tmp_path / "out") == contents(made)


def test_what_was_refused_can_be_asked_again_with_a_remedy(tiny_folder, tmp_path, capsys) -> None:
    names = draw(tmp_path / "source", 3)
    for name in names:
        path = tmp_path / "source" / "masks" / name
        Image.fromarray(np.asarray(Image.open(path)) * 3 + 1).save(path)
    assert run(tmp_path / "source", tiny_folder, tmp_path / "out") == 2
    assert "--classes" in capsys.readouterr().err
    assert run(tmp_path / "source", tiny_folder, tmp_path / "out", "--classes", "a=1,b=4") == 0


def test_any_image_can_be_made_again_from_its_row(made, tiny_folder, tmp_path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    row = rows(made)[-1]
    wanted = (made / row["file_name"]).read_bytes()
    (copy / row["file_name"]).unlink()
    again = ["dataset", str(copy), "--remake", row["id"], "--weights", str(tiny_folder)]
    assert cli.main(again) == 0
    assert (copy / row["file_name"]).read_bytes() == wanted
    assert "the same to the byte" in capsys.readouterr().out
    assert cli.main([*again[:-2], "--weights", str(ROOT / "demo" / "weights")]) == 2
    assert "not those of the dataset" in capsys.readouterr().err
    assert cli.main(["dataset", str(copy), "--remake", "r1-0000000000000000"]) == 2
    assert cli.main(["show", str(copy / row["file_name"])]) == 0
    assert f"dataset {copy} --remake {row['id']}" in capsys.readouterr().out


def test_shares_make_the_same_bytes_as_one_process(source, made, tiny_folder, tmp_path, capsys) -> None:
    for share in ("2/3", "1/3"):
        assert run(source, tiny_folder, tmp_path / "out", "--rounds", "2", "--shard", share) == 0
        assert "left to others" in capsys.readouterr().err
    assert run(source, tiny_folder, tmp_path / "out", "--rounds", "2", "--shard", "3/3") == 0
    assert contents(tmp_path / "out") == contents(made)


@pytest.mark.parametrize("count", [2, 3])
def test_torchrun_makes_the_same_bytes(source, made, tiny_folder, tmp_path, count) -> None:
    start = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count))
    assert in_processes(source, tiny_folder, tmp_path / "out", "--rounds", "2", start=start) == 0
    assert contents(tmp_path / "out") == contents(made)
    status = read_status(Folder(tmp_path / "out"))
    assert (status.done, status.total, status.failed) == (8, 8, 0)
    assert sum("torchrun" in line for line in status.workers) == count
    assert list(describe_status(status))[-1] == "finished"


def ray_workers(output: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (output / "work" / "workers").glob("[!.]*.json")]
    return [worker for worker in found if worker["engine"] == "Ray"]


def test_ray_makes_the_same_bytes_though_a_worker_is_killed(source, made, tiny_folder, tmp_path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    output = tmp_path / "out"
    more = ("--rounds", "2", "--ray", "local")
    command = [sys.executable, str(ROOT / "cli.py"), *arguments(tiny_folder, output, *more), str(source)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (found := ray_workers(output)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(int(found[0]["name"].rpartition("-")[2]), signal.SIGKILL)
        print(process.communicate(timeout=200)[1][-2000:])
    assert process.returncode == 0
    assert contents(output) == contents(made)
    assert len(ray_workers(output)) >= 2


@pytest.mark.slow
def test_a_cluster_of_three_makes_the_same_bytes(source, made, tiny_folder, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = str(Path(sys.executable).with_name("ray"))
    start = [
        ray,
        "start",
        "--head",
        "--num-cpus=3",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--port=6399",
    ]
    subprocess.run(start, check=True, capture_output=True, timeout=100)
    try:
        address = ("--ray", "127.0.0.1:6399")
        assert in_processes(source, tiny_folder, tmp_path / "out", "--rounds", "2", *address) == 0
    finally:
        subprocess.run([ray, "stop", "--force"], check=False, capture_output=True, timeout=100)
    assert contents(tmp_path / "out") == contents(made)
    assert sum(worker["done"] for worker in ray_workers(tmp_path / "out")) == 8


def test_ray_that_cannot_be_reached_is_told(source, tiny_folder, tmp_path, capfd) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    assert in_processes(source, tiny_folder, tmp_path / "out", "--ray", "no address") == 2
    assert "error: --ray" in capfd.readouterr().out


def test_images_that_do_not_fit_are_set_aside_and_not_lost(source, made, tiny_folder, tmp_path) -> None:
    assert run(source, tiny_folder, tmp_path / "out", "--rounds", "2", "--min-fidelity", "0.5") == 0
    kept = rows(tmp_path / "out")
    aside = rows(tmp_path / "out" / "rejected")
    assert {row["id"] for row in kept + aside} == {row["id"] for row in rows(made)}
    assert all(row["fidelity"] >= 0.5 for row in kept)
    assert aside
    for row in aside:
        assert row["fidelity"] < 0.5
        assert "fidelity" in row["reasons"][0]
        assert (tmp_path / "out" / row["file_name"]).is_file()


def test_an_image_that_cannot_be_read_any_more_fails_alone(source, made, tiny_folder, tmp_path, capsys) -> None:
    broken = tmp_path / "source"
    shutil.copytree(source, broken)
    output = tmp_path / "out"
    assert run(broken, tiny_folder, output, "--rounds", "2", "--plan") == 0
    assert "plan:      8 images of 4 origins" in capsys.readouterr().out
    whole = (broken / "images" / "p1.png").read_bytes()
    (broken / "images" / "p1.png").write_bytes(whole[: len(whole) // 2])
    assert run(broken, tiny_folder, output, "--rounds", "2") == 1
    assert "p1.png" in capsys.readouterr().err
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    assert len(failed) == 2
    assert len(rows(output)) == 6
    assert run(broken, tiny_folder, output, "--rounds", "2") == 1
    (broken / "images" / "p1.png").write_bytes(whole)
    assert run(broken, tiny_folder, output, "--rounds", "2") == 0
    assert contents(output) == contents(made)


def test_a_changed_input_is_not_mixed_in(source, tiny_folder, tmp_path, capsys) -> None:
    changed = tmp_path / "source"
    shutil.copytree(source, changed)
    assert run(changed, tiny_folder, tmp_path / "out", "--plan") == 0
    shutil.copy(changed / "images" / "p0.png", changed / "images" / "p3.png")
    assert run(changed, tiny_folder, tmp_path / "out") == 1
    assert "has changed since the plan was made" in capsys.readouterr().err


def test_damaged_results_are_noticed_and_made_again(source, made, tiny_folder, tmp_path, capsys) -> None:
    copy = tmp_path / "out"
    shutil.copytree(made, copy)
    for row in (copy / "work" / "finished", copy / "work" / "workers"):
        shutil.rmtree(row) if row.is_dir() else row.unlink()
    (copy / "work" / "workers").mkdir()
    name = rows(made)[3]["mask_file_name"]
    (copy / name).write_bytes(b"")
    assert run(source, tiny_folder, copy, "--rounds", "2") == 1
    assert "1 images were damaged or removed" in capsys.readouterr().err
    assert run(source, tiny_folder, copy, "--rounds", "2") == 0
    assert contents(copy) == contents(made)


def test_variants_differ_and_share_their_doubts(source, tiny_folder, tmp_path) -> None:
    assert run(source, tiny_folder, tmp_path / "out", "--variants", "2") == 0
    found = rows(tmp_path / "out")
    assert len(found) == 8
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert (one["variant"], other["variant"], other["seed"] - one["seed"]) == (0, 1, 1)
        assert one["file_sha256"] != other["file_sha256"]
        assert one["mask_file_sha256"] == other["mask_file_sha256"]


def test_targets_from_elsewhere(source, tiny_folder, tmp_path) -> None:
    draw(tmp_path / "elsewhere", 3, seed=4)
    masks = tmp_path / "elsewhere" / "masks"
    assert run(source, tiny_folder, tmp_path / "out", "--masks", str(masks), "--subset", "0.5") == 0
    found = rows(tmp_path / "out")
    assert len(found) == 2
    assert {row["target"] for row in found} <= {path.name for path in masks.iterdir()}


def test_ignored_pixels_are_255_in_the_masks(tiny_folder, tmp_path) -> None:
    names = draw(tmp_path / "source", 3)
    for name in names:
        path = tmp_path / "source" / "masks" / name
        labels = np.asarray(Image.open(path)).copy()
        labels[:20, :20] = 9
        Image.fromarray(labels).save(path)
    assert run(tmp_path / "source", tiny_folder, tmp_path / "out", "--classes", "a=0,b=1,ignore=9") == 0
    for row in rows(tmp_path / "out"):
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask_file_name"]))
        assert (mask == 255).sum() == 400
        assert set(row["class_fractions"]) == {"a", "b"}
