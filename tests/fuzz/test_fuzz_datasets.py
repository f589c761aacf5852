"""Manifests, layouts and what a dataset's folder holds, damaged by seed: read, or refused in lines, at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from pathlib import Path

import pytest

from dataset.folder import Folder
from dataset.inspection import inspect
from dataset.layouts import read_source
from dataset.plan import make_plan, read_plan
from dataset.shares import share_of
from dataset.status import read_status
from imaging.errors import InputError, ProblemsError
from tests.dataset.annotated import draw
from tests.fuzz.mutations import TEXTS, json_bytes, mutate_bytes, mutate_json, seeds

ROWS = [
    {"file_name": f"images/p{i}.png", "mask_file_name": f"masks/p{i}.png", "split": "train", "slide_id": f"s{i}"}
    for i in range(3)
]
CSV = "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]) + "\n"
TILES = {"tiles": [{"image": row["file_name"], "labels": row["mask_file_name"], "region": {}} for row in ROWS]}
NNUNET = {"labels": {"background": 0, "x": 1}, "file_ending": ".png", "channel_names": {"0": "R"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    draw(folder, 3)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
        for i in range(3):
            name = f"p{i}_0000.png" if part == "imagesTr" else f"p{i}.png"
            shutil.copy(folder / ("images" if part == "imagesTr" else "masks") / f"p{i}.png", folder / part / name)
    return folder


def read_or_refuse(path: Path) -> None:
    """Whatever is wrong is said in printable lines; what is read is looked at as a run would."""
    said: list[str] = []
    try:
        source = read_source(path)
        for _ in inspect("here", source.pairs, (), None, source.classes):
            pass
    except ProblemsError as refusal:
        said = [*refusal.problems, str(refusal)]
    except InputError as refusal:
        said = [str(refusal)]
    assert all(line.isprintable() and 0 < len(line) < 3000 for line in said)


@pytest.mark.parametrize("seed", seeds(60))
def test_damaged_bytes_of_a_manifest_are_read_or_refused(source, seed) -> None:
    rng = random.Random(seed)
    name, text = rng.choice(
        [
            ("m.csv", CSV),
            ("m.jsonl", "\n".join(map(json.dumps, ROWS))),
            ("a-tiles.json", json.dumps(TILES)),
            ("dataset.json", json.dumps(NNUNET)),
        ]
    )
    path = source / name
    path.write_bytes(mutate_bytes(text.encode(), rng))
    read_or_refuse(path)
    path.unlink()


@pytest.mark.parametrize("seed", seeds(60))
def test_odd_values_in_a_manifest_are_read_or_refused(source, seed) -> None:
    rng = random.Random(seed)
    kind = rng.choice(("m.jsonl", "a-tiles.json", "dataset.json"))
    path = source / kind
    if kind == "m.jsonl":
        path.write_bytes(b"\n".join(json_bytes(mutate_json(row, rng)) for row in ROWS))
    else:
        path.write_bytes(json_bytes(mutate_json(TILES if kind == "a-tiles.json" else NNUNET, rng)))
    read_or_refuse(path)
    path.unlink()


@pytest.mark.parametrize("seed", seeds(30))
def test_a_damaged_parquet_file_is_read_or_refused(source, seed) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    path = source / "m.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    path.write_bytes(mutate_bytes(path.read_bytes(), random.Random(seed)))
    read_or_refuse(path)
    path.unlink()


def test_a_damaged_plan_is_refused(source, tmp_path) -> None:
    work = inspect("here", read_source(source).pairs, (), None, None)
    while True:
        try:
            next(work)
        except StopIteration as end:
            plan = make_plan(end.value, {}, rounds=1, variants=1, seed=0, batch=1)
            break
    folder = Folder(tmp_path / "out")
    folder.create()
    folder.settle({}, {})
    folder.write_plan(plan)
    path = folder.work / "plan.json"
    content = path.read_bytes()
    assert read_plan(path) == plan
    for seed in seeds(60):
        damaged = mutate_bytes(content, random.Random(seed))
        path.write_bytes(damaged)
        if damaged.rstrip(b"\n") == content.rstrip(b"\n"):
            continue
        for use in (lambda: read_plan(path), lambda: read_status(folder)):
            with pytest.raises(InputError) as refusal:
                use()
            assert str(refusal.value).isprintable()


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "missing", "loop", "device"])
def test_what_is_no_file_is_never_waited_for(tmp_path, monkeypatch, kind) -> None:
    path = tmp_path / "m.csv"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            monkeypatch.chdir(tmp_path)  # a socket's name must be short
            made.bind("m.csv")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError) as refusal:
        read_source(path)
    assert str(refusal.value).isprintable()
    inner = tmp_path / "rows.jsonl"
    inner.write_text(json.dumps({"file_name": "m.csv", "mask_file_name": "m.csv"}))
    read_or_refuse(inner)


@pytest.mark.parametrize("text", [*TEXTS, "1/0", "0/0", "1/1/1", "1.0/2", "-1/2", "1/9999999"])
def test_odd_shares_are_refused(text) -> None:
    with pytest.raises(InputError) as refusal:
        share_of(text, {})
    assert str(refusal.value).isprintable()
    if text != "0":
        with pytest.raises(InputError):
            share_of(None, {"RANK": text, "WORLD_SIZE": "2"})
    assert share_of(None, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}).index == 1
    assert share_of(None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}).count == 4
    assert share_of(None, {"RANK": "0"}).count == 1
