"""Cores in the layout of the public CRC epithelium set become annotated patches, patients apart, and can be planned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.cores import main
from commands.experiment_setup import open_bench
from commands.samples import read_samples
from dataset.cores import find_cores, split_of
from dataset.procedural import World
from dataset.tissue import draw_slide, random_slide
from evaluation.experiment.plan import read_plan
from imaging.errors import InputError
from sampler.ticks import result_of
from tests.evaluation.experiments import request
from tests.evaluation.plain_segmenter import Plain


def draw_cores(folder: Path, patients: int = 8, side: int = 160) -> Path:
    """An unpacked archive of one stain, as far as its layout is known: JPEG and PNG of cores in two folders."""
    rng = np.random.default_rng(0)
    for kind, first in (("Cancer", 4), ("Normal mucosa", 1)):
        (folder / "Ki67" / kind).mkdir(parents=True)
        for patient in range(patients):
            image, labels = draw_slide(rng, random_slide(rng), side)
            image[:40] = 250  # glass beside the core
            labels[:40] = 1
            stem = f"A{patient + 1:03}-{first}"
            Image.fromarray(image).save(folder / "Ki67" / kind / f"{stem}.jpg", quality=95)
            Image.fromarray((labels == 0).astype(np.uint8)).save(folder / "Ki67" / kind / f"{stem}.png")
    return folder / "Ki67"


def test_cores_become_patches_with_patients_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = draw_cores(tmp_path)
    assert main([str(cores), str(tmp_path / "patches"), "--side", "64", "--patches", "2"]) == 0
    found = read_samples(tmp_path / "patches")
    assert f"{len(found.samples)} patches of 8 patients" in capsys.readouterr().out
    assert {each.patient for each in found.samples} <= {f"A{number:03}" for number in range(1, 9)}
    splits: dict[str, set[str]] = {}
    slides: dict[str, int] = {}
    for each in found.samples:
        splits.setdefault(each.patient, set()).add(each.split)
        slides[each.slide] = slides.get(each.slide, 0) + 1
        image, labels = (np.asarray(Image.open(path)) for path in (each.image, each.masks[0][1]))
        assert image.shape == (64, 64, 3)
        assert {0, 1} == set(np.unique(labels).tolist())
        assert (image.min(axis=2) <= 225).mean() >= 0.6
    assert {split for each in splits.values() for split in each} == {"train", "val", "test"}
    assert all(len(each) == 1 for each in splits.values())
    assert max(slides.values()) == 2


def test_an_experiment_on_them_is_planned(tmp_path: Path) -> None:
    cores = draw_cores(tmp_path)
    assert main([str(cores), str(tmp_path / "patches"), "--side", "64"]) == 0
    asked = request(World(tmp_path / "patches", tmp_path), tmp_path / "out", test=None, score="epithelium")
    bench = result_of(open_bench(asked, Plain()))
    assert bench.classes.names == ("epithelium", "stroma")
    plan = read_plan(asked.output / "plan.json")
    assert {each.share for each in plan.subsets} == {0.25, 1.0}
    assert all(group.startswith("A") for each in plan.subsets for group in each.train)


def test_label_maps_keep_epithelium_as_class_0(tmp_path: Path) -> None:
    cores = draw_cores(tmp_path, side=128)
    main([str(cores), str(tmp_path / "patches"), "--side", "64", "--patches", "9"])
    for line in (tmp_path / "patches" / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        kind, _, rest = row["file_name"].removeprefix("images/").rpartition(" [")
        left, top = (int(part[2:]) for part in rest.split(",")[:2])
        folder, _, stem = kind.rpartition(" ")
        whole = np.asarray(Image.open(cores / folder / f"{stem}.png"))
        labels = np.asarray(Image.open(tmp_path / "patches" / row["mask_file_name"]))
        assert np.array_equal(labels == 0, whole[top : top + 64, left : left + 64] == 1)


def test_what_cannot_be_cut_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = draw_cores(tmp_path, patients=4)
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "out")]) == 2
    assert main([str(cores), str(tmp_path / "out"), "--side", "1024"]) == 2
    assert main([str(cores), str(cores)]) == 2
    assert main([str(cores), str(tmp_path / "new"), "--side", "3"]) == 2
    next(iter(sorted(cores.rglob("*.png")))).unlink()
    assert main([str(cores), str(tmp_path / "other"), "--side", "64"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert all(error.startswith("error: ") for error in errors)
    assert "has no label map" in errors[-1]


def test_splits_are_the_same_whatever_the_order_and_want_three_patients() -> None:
    patients = [f"A{number:03}" for number in range(100)]
    found = split_of(patients)
    assert found == split_of(patients[::-1])
    assert [list(found.values()).count(split) for split in ("test", "val", "train")] == [25, 15, 60]
    with pytest.raises(InputError, match="only 2 patients"):
        split_of(["a", "b"])


def test_cores_are_found_in_the_order_of_their_paths(tmp_path: Path) -> None:
    found = find_cores(draw_cores(tmp_path, patients=3))
    assert [core.image.name for core in found] == [
        *("A001-4.jpg", "A002-4.jpg", "A003-4.jpg", "A001-1.jpg", "A002-1.jpg", "A003-1.jpg")
    ]
    assert found[0].patient == "A001"
