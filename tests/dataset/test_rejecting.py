"""Images set aside by name: nothing is deleted, all that the dataset says of itself agrees, whatever ends it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import cli
from dataset.folder import Folder
from tests.dataset.annotated import contents, rows, run


@pytest.fixture(scope="module")
def made(source: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset with exports. Not to be changed."""
    output = tmp_path_factory.mktemp("made") / "out"
    for export in ("nnunet", "webdataset"):
        assert run(source, tiny_folder, output, "--export", export) == 0
    return output


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The dataset, to be changed."""
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def reject(folder: Path, *ids: str) -> int:
    return cli.main(["review", "reject", str(folder), *ids, "--reason", "seen through"])


def everything(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "locks" not in path.parts
    }


def assert_agrees(folder: Path, made: Path, gone: set[str]) -> None:
    """Manifests, files, card, checksums and exports of ``folder`` are those of ``made`` with ``gone`` set aside."""
    before = {row["id"]: row for row in rows(made)}
    assert {row["id"] for row in rows(folder)} == before.keys() - gone
    assert all(before[row["id"]] == row for row in rows(folder))
    aside = [json.loads(line) for line in (folder / "rejected" / "manifest.jsonl").read_text().splitlines()]
    assert {row["id"] for row in aside} == gone
    for row in aside:
        assert (row["rejected"], row["reasons"]) == (True, ["seen through"])
        for name in ("file", "mask_file", "trusted_mask_file"):
            digest = hashlib.sha256((folder / row[f"{name}_name"]).read_bytes()).hexdigest()
            assert digest == row[f"{name}_sha256"] == before[row["id"]][f"{name}_sha256"]
            assert row[f"{name}_name"] == f"rejected/{before[row['id']][f'{name}_name']}"
    assert len((folder / "metadata.jsonl").read_text().splitlines()) == len(before) - len(gone)
    for kind in ("images", "masks", "masks_trusted"):
        assert {path.stem for path in (folder / kind).iterdir()} == before.keys() - gone
    lines = (folder / "checksums.sha256").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    found = contents(folder)
    found.pop("checksums.sha256")
    assert listed == found
    assert f"{len(before) - len(gone)} images are kept, {len(gone)} set aside" in (folder / "README.md").read_text()
    cases = {path.name for path in (folder / "nnunet" / "Dataset001_InSilico" / "labelsTr").iterdir()}
    assert cases == {f"{each}.png" for each in before.keys() - gone}
    with tarfile.open(folder / "webdataset" / "00000.tar") as shard:
        assert {name.split(".")[0] for name in shard.getnames()} == before.keys() - gone


def test_named_images_are_set_aside_and_all_agrees(made: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = (row["id"] for row in rows(made))
    assert reject(copy, first, second, first) == 0
    assert "2 kept, 2 set aside" in capsys.readouterr().out
    assert_agrees(copy, made, {first, second})
    assert reject(copy, second) == 0
    assert f"1 of these were set aside before: {second}" in capsys.readouterr().err
    assert_agrees(copy, made, {first, second})


def test_the_datasets_command_leaves_them_aside(source: Path, made: Path, copy: Path, tiny_folder: Path) -> None:
    first = rows(made)[0]["id"]
    assert reject(copy, first) == 0
    assert run(source, tiny_folder, copy) == 0
    assert_agrees(copy, made, {first})
    (copy / "work" / "finished").unlink()
    assert run(source, tiny_folder, copy, "--export", "nnunet") == 0
    assert_agrees(copy, made, {first})


def test_what_is_no_image_changes_nothing(made: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = (row["id"] for row in rows(made))
    (copy / "masks" / f"{second}.png").write_bytes(b"other")
    before = everything(copy)
    assert reject(copy, first, "nobody", second, "../../x", "images/\x1b.png") == 2
    said = capsys.readouterr().err
    for what in (
        "nobody: no image of",
        "../../x: no image of",
        "\\x1b.png: no image",
        f"{second}: its files or its row",
    ):
        assert what in said
    assert everything(copy) == before


def test_other_folders_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reject(source, "p0") == 2
    assert reject(tmp_path / "nothing", "p0") == 2
    assert capsys.readouterr().err.count("no dataset's folder") == 2


def test_a_dataset_that_is_not_done_is_refused(made: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = (row["id"] for row in rows(made))
    Folder(copy).row_path(second).unlink()
    before = everything(copy)
    assert reject(copy, first) == 2
    assert "1 images are still to be made" in capsys.readouterr().err
    assert everything(copy) == before


@pytest.mark.parametrize("step", range(0, 18, 2))
def test_a_full_disk_at_any_write_loses_nothing_and_the_same_command_goes_on(
    made: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    ids = [row["id"] for row in rows(made)[:2]]
    real, count = os.replace, 0

    def failing(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > step:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        assert reject(copy, *ids) == 2
    assert "No space left" in capsys.readouterr().err
    images = {path.stem for base in (copy, copy / "rejected") for path in base.glob("images/*.png")}
    assert images == {row["id"] for row in rows(made)}
    assert not (copy / "work" / "finished").exists()
    assert reject(copy, *ids) == 0
    assert_agrees(copy, made, set(ids))
