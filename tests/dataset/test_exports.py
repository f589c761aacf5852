"""What other programs read: Hugging Face's image folders, nnU-Net's raw format, WebDataset's shards."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.layouts import read_source
from tests.dataset.annotated import contents, draw, rows, run


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """With ignored pixels in one of the label maps."""
    folder = tmp_path_factory.mktemp("source")
    for number, name in enumerate(draw(folder, 3)):
        path = folder / "masks" / name
        labels = np.asarray(Image.open(path)).copy()
        if number == 1:
            labels[40:, 40:] = 7
        Image.fromarray(labels).save(path)
    return folder


@pytest.fixture(scope="module")
def made(source, tiny_folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("made") / "out"
    classes = ("--classes", "epithelium=0,stroma=1,ignore=7")
    assert run(source, tiny_folder, output, "--rounds", "2", *classes, "--export", "nnunet") == 0
    assert run(source, tiny_folder, output, "--rounds", "2", *classes, "--export", "webdataset") == 0
    return output


def test_the_checksums_cover_the_exports(made) -> None:
    listed = dict(line.split("  ", 1)[::-1] for line in (made / "checksums.sha256").read_text().splitlines())
    found = contents(made)
    found.pop("checksums.sha256")
    assert listed == found
    assert "webdataset/00000.tar" in listed
    assert "nnunet/Dataset001_InSilico/dataset.json" in listed


def test_hugging_faces_image_folder_reads_all_image_columns(made, tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = datasets.load_dataset("imagefolder", data_dir=str(made), split="train", cache_dir=str(tmp_path))
    wanted = rows(made)
    assert len(found) == len(wanted) == 6
    assert [row["id"] for row in found] == [row["id"] for row in wanted]
    for row, ours in zip(found, wanted, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(made / ours["file_name"])))
        assert np.array_equal(np.asarray(row["mask"]), np.asarray(Image.open(made / ours["mask_file_name"])))
        trust = Image.open(made / ours["trusted_mask_file_name"])
        assert np.array_equal(np.asarray(row["trusted_mask"]), np.asarray(trust))
        assert row["synthetic"] is True
        assert row["fidelity"] == pytest.approx(ours["fidelity"])


def test_nnunets_rules_hold(made) -> None:
    """Those of its documentation: dataset_format.md of nnU-Net v2."""
    root = made / "nnunet" / "Dataset001_InSilico"
    content = json.loads((root / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "stroma": 1, "ignore": 2}
    assert content["file_ending"] == ".png"
    assert set(content["channel_names"]) == {"0", "1", "2"}
    images = sorted(path.name for path in (root / "imagesTr").iterdir())
    labels = sorted(path.name for path in (root / "labelsTr").iterdir())
    assert [name.replace("_0000.png", ".png") for name in images] == labels
    assert len(labels) == content["numTraining"] == 6
    values = set()
    for image, label in zip(images, labels, strict=True):
        pixels, classes = (np.asarray(Image.open(root / part)) for part in (f"imagesTr/{image}", f"labelsTr/{label}"))
        assert pixels.shape == (*classes.shape, 3)
        values |= set(np.unique(classes).tolist())
    assert values == set(content["labels"].values())
    assert len(read_source(root).pairs) == 6


def test_nnunets_own_check_passes(made) -> None:
    check = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity", reason="needs nnU-Net")
    check.verify_dataset_integrity(str(made / "nnunet" / "Dataset001_InSilico"), num_processes=1)


def test_shards_hold_every_image_under_one_key(made) -> None:
    with tarfile.open(made / "webdataset" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    found = rows(made)
    assert len(members) == 4 * len(found)
    assert {name.split(".")[0] for name in members} == {row["id"] for row in found}
    for row in found:
        assert hashlib.sha256(members[f"{row['id']}.image.png"]).hexdigest() == row["file_sha256"]
        assert hashlib.sha256(members[f"{row['id']}.mask.png"]).hexdigest() == row["mask_file_sha256"]
        assert Image.open(io.BytesIO(members[f"{row['id']}.trusted.png"])).size == (64, 64)
        assert json.loads(members[f"{row['id']}.json"]) == row


def test_webdataset_reads_the_shards(made, monkeypatch) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    shards = webdataset.WebDataset(str(made / "webdataset" / "00000.tar"), shardshuffle=False).decode("pil")
    found = [(sample["__key__"], sample["image.png"].size, sample["json"]["synthetic"]) for sample in shards]
    assert found == [(row["id"], (64, 64), True) for row in rows(made)]
