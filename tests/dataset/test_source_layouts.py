"""Finding annotated images: every layout, awkward names, and one report of all that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.inspection import inspect, read_labels
from dataset.layouts import read_masks, read_source
from dataset.pairs import SourcePair, choose_split, leaks
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from tests.dataset.annotated import draw

AWKWARD = (
    "TCGA-A1.01Z.dots [x=0,y=512,w=64,h=64].png",
    "präparat 7 – Ki67.png",
    "切片 [d=2,x=1,y=2,w=64,h=64].png",
    "a" * 200 + ".png",
    "*?[abc].png",
    "-leading.png",
    "quote'\".png",
)


def looked_at(pairs, masks=None, classes=None, others=()):
    work = inspect("here", pairs, others, masks, classes)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("masks", ["masks", "labels"])
def test_sub_folders_are_paired_by_stem(tmp_path, masks) -> None:
    draw(tmp_path, 3)
    if masks != "masks":
        (tmp_path / "masks").rename(tmp_path / masks)
    pairs = read_source(tmp_path).pairs
    assert [(pair.name, pair.mask_name) for pair in pairs] == [
        (f"images/p{i}.png", f"{masks}/p{i}.png") for i in range(3)
    ]
    assert len(looked_at(pairs).images) == 3


@pytest.mark.parametrize("ending", ["_mask", "-labelled", "_anno"])
@pytest.mark.parametrize("apart", [False, True])
def test_masks_are_known_by_their_ending(tmp_path, ending, apart) -> None:
    names = draw(tmp_path / "drawn", 2)
    for name in names:
        image_folder, mask_folder = (tmp_path / "in" / part for part in (("images", "masks") if apart else ("", "")))
        for folder in (image_folder, mask_folder):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "drawn" / "images" / name, image_folder / name)
        Image.open(tmp_path / "drawn" / "masks" / name).save(mask_folder / f"{name[:-4]}{ending}.tif")
    pairs = read_source(tmp_path / "in").pairs
    assert [pair.mask.name for pair in pairs] == [f"p{i}{ending}.tif" for i in range(2)]
    assert len(looked_at(pairs).targets) == 2


def test_awkward_names_are_found_and_never_taken_for_patterns(tmp_path) -> None:
    draw(tmp_path / "drawn", 1)
    for part in ("images", "masks"):
        (tmp_path / "in" / part).mkdir(parents=True)
        for name in AWKWARD:
            shutil.copy(tmp_path / "drawn" / part / "p0.png", tmp_path / "in" / part / name)
    pairs = read_source(tmp_path / "in").pairs
    assert {pair.image.name for pair in pairs} == set(AWKWARD)
    assert all(pair.mask.name == pair.image.name for pair in pairs)
    slides = {pair.image.name: pair.slide for pair in pairs}
    assert slides[AWKWARD[0]] == "TCGA-A1.01Z.dots"
    assert slides[AWKWARD[2]] == "切片"
    assert slides[AWKWARD[4]] == ""
    assert len(looked_at(pairs).images) == len(AWKWARD)


def test_an_image_whose_name_ends_like_a_masks_keeps_its_own(tmp_path) -> None:
    draw(tmp_path, 1)
    for part in ("images", "masks"):
        shutil.copy(tmp_path / part / "p0.png", tmp_path / part / "q_mask.png")
    assert [pair.mask.name for pair in read_source(tmp_path).pairs] == ["p0.png", "q_mask.png"]


def test_everything_unpaired_is_told_at_once(tmp_path) -> None:
    draw(tmp_path, 4)
    (tmp_path / "images" / "p1.png").unlink()
    (tmp_path / "masks" / "p2.png").unlink()
    Image.new("L", (64, 64)).save(tmp_path / "masks" / "p3_mask.png")
    with pytest.raises(ProblemsError) as caught:
        read_source(tmp_path)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "p1.png: has no image" in told
    assert "p2.png: has no label map" in told
    assert "p3_mask.png: stands for the same image as p3.png" in told


def test_folders_of_splits_are_splits(tmp_path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        draw(tmp_path / split, count)
    pairs = read_source(tmp_path).pairs
    assert [(pair.split, pair.name) for pair in pairs] == [
        ("train", "train/images/p0.png"),
        ("train", "train/images/p1.png"),
        ("val", "val/images/p0.png"),
    ]
    chosen, split = choose_split(pairs, None)
    assert (len(chosen), split) == (2, "train")
    assert choose_split(pairs, "val")[1] == "val"
    with pytest.raises(InputError, match="no such split; known are train, val"):
        choose_split(pairs, "test")


def test_qupaths_tiles_are_read_by_their_json(tmp_path) -> None:
    """As TileExporter writes them with exportJson(true), from Windows too."""
    draw(tmp_path / "drawn", 2)
    tiles = []
    for index in range(2):
        name = f"my.slide [x={64 * index},y=0,w=64,h=64]"
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "drawn" / "images" / f"p{index}.png", tmp_path / "images" / f"{name}.png")
        shutil.copy(tmp_path / "drawn" / "masks" / f"p{index}.png", tmp_path / f"{name}-labelled.png")
        tiles.append({"region": {"x": 64 * index}, "image": f"images\\{name}.png", "labels": f"{name}-labelled.png"})
    shutil.rmtree(tmp_path / "drawn")
    content = {"qupath_version": "0.6.0", "base_directory": "C:\\export", "labels": [], "tiles": tiles}
    (tmp_path / "my.slide-tiles.json").write_text(json.dumps(content))
    for given in (tmp_path, tmp_path / "my.slide-tiles.json"):
        pairs = read_source(given).pairs
        assert [pair.slide for pair in pairs] == ["my.slide"] * 2
        assert len(looked_at(pairs).images) == 2
    (tmp_path / "my.slide-tiles.json").write_text(json.dumps({**content, "tiles": [{"image": "a.png"}]}))
    with pytest.raises(ProblemsError) as caught:
        read_source(tmp_path)
    assert "has no image or no labels" in caught.value.problems[0]


def test_nnunets_data_sets_are_read_with_their_classes(tmp_path) -> None:
    names = draw(tmp_path / "drawn", 2)
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    for name in names:
        shutil.copy(tmp_path / "drawn" / "images" / name, tmp_path / "imagesTr" / f"{name[:-4]}_0000.png")
        labels = np.asarray(Image.open(tmp_path / "drawn" / "masks" / name)).copy()
        labels[10:20] = 2
        Image.fromarray(labels).save(tmp_path / "labelsTr" / name)
    content = {
        "channel_names": {"0": "R"},
        "labels": {"background": 0, "tumour": 1, "ignore": 2},
        "file_ending": ".png",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    source = read_source(tmp_path)
    assert source.classes == ClassMap(("background", "tumour"), (0, 1), ignored=(2,))
    found = looked_at(source.pairs, classes=source.classes)
    assert {pair.split for pair in source.pairs} == {"train"}
    assert set(np.unique(read_labels(source.pairs[0], found.classes))) == {0, 1, 2}
    assert found.images[0].candidate.descriptor.fractions.sum() == pytest.approx(1.0)


def test_all_forms_of_masks_are_read_alike(tmp_path) -> None:
    names = draw(tmp_path, 3)
    labels = np.asarray(Image.open(tmp_path / "masks" / names[0])).astype(np.uint8)
    wanted = {0: "#102030", 1: "#ffee00"}
    classes = ClassMap.parse(",".join(f"c{value}={colour}" for value, colour in wanted.items()))
    palette = np.array([[0x10, 0x20, 0x30], [0xFF, 0xEE, 0x00]], np.uint8)
    Image.fromarray(palette[labels]).save(tmp_path / "masks" / names[0])
    swapped = Image.fromarray(1 - labels, mode="P")
    swapped.putpalette(palette[::-1].tobytes())
    swapped.save(tmp_path / "masks" / names[1])
    plain = Image.fromarray(labels, mode="P")
    plain.putpalette(palette.tobytes())
    plain.save(tmp_path / "masks" / names[2])
    found = looked_at(read_source(tmp_path).pairs, classes=classes)
    assert len({each.candidate.digest for each in found.images}) == 1
    assert np.array_equal(read_labels(found.images[1].pair, classes), labels)
    for name in names:
        Image.fromarray(labels.astype(np.uint16) * 40000).save(tmp_path / "masks" / name)
    deep = looked_at(read_source(tmp_path).pairs, classes=ClassMap.parse("a=0,b=40000"))
    assert deep.images[0].candidate.digest == found.images[0].candidate.digest


def test_a_report_has_every_file_that_is_wrong(tmp_path) -> None:
    names = draw(tmp_path, 5)
    Image.new("L", (64, 48), 1).save(tmp_path / "masks" / names[0])
    (tmp_path / "images" / names[1]).write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "masks" / names[2]).write_bytes(b"")
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(tmp_path / "masks" / names[3])
    with pytest.raises(ProblemsError) as caught:
        looked_at(read_source(tmp_path).pairs, classes=ClassMap.parse("a=0,b=1"))
    told = caught.value.problems
    assert len(told) == 4
    for name, problem in zip([names[2], names[0], names[1], names[3]], told, strict=True):
        assert name in problem


def test_a_wholly_ignored_mask_is_told(tmp_path) -> None:
    names = draw(tmp_path, 2)
    Image.new("L", (64, 64), 9).save(tmp_path / "masks" / names[0])
    with pytest.raises(ProblemsError) as caught:
        looked_at(read_source(tmp_path).pairs, classes=ClassMap.parse("a=0,b=1,ignore=9"))
    assert "every pixel is ignored" in caught.value.problems[0]


def test_slides_patients_and_images_in_two_splits_are_refused(tmp_path) -> None:
    names = draw(tmp_path, 3)

    def pair(index: int, split: str, slide: str = "", patient: str = "") -> SourcePair:
        name = names[index]
        return SourcePair(
            f"images/{name}", tmp_path / "images" / name, tmp_path / "masks" / name, split, slide, patient
        )

    assert "slide s1" in leaks([pair(0, "train", "s1"), pair(1, "val", "s1")])[0]
    assert "patient 7" in leaks([pair(0, "train", "a", "7"), pair(1, "val", "b", "7")])[0]
    assert leaks([pair(0, "train", "a"), pair(1, "val", "b"), pair(2, "val", "b")]) == []
    shutil.copy(tmp_path / "images" / names[0], tmp_path / "images" / names[1])
    with pytest.raises(ProblemsError) as caught:
        looked_at([pair(0, "train")], others=[pair(1, "val"), pair(2, "val")])
    assert len(caught.value.problems) == 1
    assert "is the same image as" in caught.value.problems[0]


def test_masks_alone_are_targets(tmp_path) -> None:
    draw(tmp_path / "a", 2)
    draw(tmp_path / "b", 3, seed=1)
    found = looked_at(read_source(tmp_path / "a").pairs, masks=read_masks(tmp_path / "b" / "masks"))
    assert (len(found.images), len(found.targets)) == (2, 3)
    assert all(each.pair.image is None for each in found.targets)
    with pytest.raises(InputError, match="no label maps there"):
        read_masks(tmp_path / "a")


@pytest.mark.parametrize("given", ["nothing", "empty", "file.txt"])
def test_what_is_no_data_set_is_told(tmp_path, given) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match=given):
        read_source(tmp_path / given)


def test_images_without_masks_folder_are_told(tmp_path) -> None:
    draw(tmp_path, 1)
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(InputError, match="neither masks/ nor labels/"):
        read_source(Path(tmp_path))
