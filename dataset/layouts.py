"""Where annotated images lie: manifests, folders of pairs, QuPath's tiles, nnU-Net's data sets (docs/datasets.md).

Names are compared as they are, never as patterns: QuPath writes brackets into them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.pairs import SourcePair
from dataset.tables import SUFFIXES, read_json_file, read_manifest
from imaging.classes import IGNORE, ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.rawfile import is_file, shown

IMAGES = "images"
MASKS = ("masks", "labels")
ANNOTATOR, TRUSTED = "masks_", "masks_trusted"
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
MASK_ENDINGS = ("_mask", "-labelled", "_anno")
TILES = "-tiles.json"
NNUNET = "dataset.json"
_REGION = re.compile(r"(.*) \[[^\[\]]*x=-?\d+,y=-?\d+,w=\d+,h=\d+[^\[\]]*\]", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """What an input holds. ``classes`` is what the data set itself says of its labels, if it does."""

    pairs: tuple[SourcePair, ...]
    classes: ClassMap | None = None


def read_source(path: Path) -> Source:
    """Find the annotated images of ``path``, whichever of the known layouts it has.

    Raises:
        InputError: it is none of them, or some images have no label map or several (all of these at once).
    """
    if not os.path.isdir(path):
        return _read_file(path)
    names = _names(path)
    manifests = [
        name for stem in ("manifest", "metadata") for name in (stem + end for end in SUFFIXES) if name in names
    ]
    if manifests:
        return Source(tuple(read_manifest(path / manifests[0])))
    if NNUNET in names:
        return _nnunet(path)
    tiles = [name for name in names if name.endswith(TILES)]
    if tiles:
        return _tiles([path / name for name in tiles])
    if IMAGES in names or any(_is_picture(name) for name in names):
        return Source(tuple(_folder(path, "")))
    splits = [name for name in names if os.path.isdir(path / name / IMAGES)]
    if not splits:
        known = f"{IMAGES}/ and masks/, a manifest (.csv, .jsonl), *{TILES} or nnU-Net's {NNUNET}"
        raise InputError(f"{shown(path)}: no annotated images there; give a folder with pairs, or with {known}")
    return Source(tuple(pair for split in splits for pair in _folder(path / split, split)))


def read_masks(folder: Path) -> list[SourcePair]:
    """Label maps alone, as targets. Raises InputError if there is none."""
    names = [name for name in _names(folder) if _is_picture(name)]
    if not names:
        raise InputError(f"{shown(folder)}: no label maps there; give a folder of PNG or TIFF files")
    return [SourcePair(name, None, folder / name, slide=_slide(_stem(name))) for name in names]


def _read_file(path: Path) -> Source:
    if not is_file(path):
        raise InputError(f"{shown(path)}: no such folder or manifest; check the path")
    if path.suffix.lower() in SUFFIXES:
        return Source(tuple(read_manifest(path)))
    if path.name == NNUNET:
        return _nnunet(path.parent)
    if path.name.endswith(TILES):
        return _tiles([path])
    raise InputError(
        f"{shown(path)}: no manifest; give a folder, or a {', '.join(SUFFIXES)}, *{TILES} or {NNUNET} file"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{shown(folder)}: cannot be looked into ({reason}); check the path and permissions"
        ) from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _stem(name: str) -> str:
    """Without the picture's ending; dots before it belong to the name."""
    return name[: name.rindex(".")]


def _slide(stem: str) -> str:
    """The slide that QuPath's name for a tile, ``slide [x=..,y=..,w=..,h=..]``, tells."""
    found = _REGION.fullmatch(stem)
    return "" if found is None else found[1]


def read_annotators(path: Path) -> dict[str, tuple[SourcePair, ...]]:
    """The images of a folder with ``images/`` and several of ``masks_NAME/``, with each annotator's label maps.

    Images are the same for all annotators, in the same order. Empty if there are no such folders.

    Raises:
        InputError: an image lacks a label map of an annotator, or has several (all of these at once).
    """
    names = [name for name in _names(path) if name.startswith(ANNOTATOR) and name != TRUSTED]
    found: dict[str, tuple[SourcePair, ...]] = {}
    problems: list[str] = []
    for name in names:
        try:
            found[name.removeprefix(ANNOTATOR)] = tuple(_folder(path, "", name))
        except ProblemsError as error:
            problems += error.problems
    if problems:
        raise ProblemsError(shown(path), problems)
    return found


def _folder(folder: Path, split: str, masks_in: str | None = None) -> list[SourcePair]:
    """Pairs of one folder, or of its sub-folders for images and masks."""
    names = _names(folder)
    if masks_in is None:
        masks_in = next((name for name in MASKS if name in names), None)
    apart = IMAGES in names
    if apart and masks_in is None:
        raise InputError(f"{shown(folder)}: has {IMAGES}/ but neither masks/ nor labels/; put the label maps there")
    image_folder = folder / IMAGES if apart else folder
    mask_folder = folder / masks_in if apart and masks_in is not None else folder
    masks: dict[str, list[str]] = {}
    images: dict[str, list[str]] = {}
    for name in filter(_is_picture, _names(image_folder)):
        if apart or not _stem(name).endswith(MASK_ENDINGS):
            images.setdefault(_stem(name), []).append(name)
    for name in filter(_is_picture, _names(mask_folder)):
        stem = _stem(name)
        ending = next((each for each in MASK_ENDINGS if stem.endswith(each)), "")
        if apart or ending:
            masks.setdefault(stem if apart and stem in images else stem.removesuffix(ending), []).append(name)
    problems = [_unpaired(mask_folder, kept[0], "image") for stem, kept in masks.items() if stem not in images]
    pairs = []
    for stem, kept in images.items():
        found = masks.get(stem, [])
        for files, where in ((kept, image_folder), (found, mask_folder)):
            if len(files) > 1:
                problems.append(f"{shown(where / files[1])}: stands for the same image as {files[0]}; keep one of them")
        if not found:
            problems.append(_unpaired(image_folder, kept[0], "label map"))
        elif len(kept) == len(found) == 1:
            name = (image_folder / kept[0]).relative_to(folder.parent if split else folder).as_posix()
            pairs.append(SourcePair(name, image_folder / kept[0], mask_folder / found[0], split, _slide(stem)))
    if problems:
        raise ProblemsError(shown(folder), problems)
    return pairs


def _unpaired(folder: Path, name: str, what: str) -> str:
    endings = ", ".join(MASK_ENDINGS)
    return f"{shown(folder / name)}: has no {what} of the same name (or with {endings} for the map); add or remove it"


def _tiles(files: Sequence[Path]) -> Source:
    """What QuPath's TileExporter writes with ``exportJson(true)``; one file for each slide."""
    pairs: list[SourcePair] = []
    problems: list[str] = []
    for file in files:
        content = read_json_file(file)
        tiles = content.get("tiles") if isinstance(content, dict) else None
        if not isinstance(tiles, list):
            raise InputError(f"{shown(file)}: has no list of tiles; export it again with QuPath's exportJson(true)")
        for tile in tiles:
            image, labels = (_member(tile, key) for key in ("image", "labels"))
            if not image or not labels:
                problems.append(
                    f"{shown(file)}: the tile {brief(repr(tile))} has no image or no labels; export it again"
                )
                continue
            slide = file.name.removesuffix(TILES)
            pairs.append(SourcePair(image, file.parent / image, file.parent / labels, slide=slide))
    if problems:
        raise ProblemsError(shown(files[0].parent), problems)
    if not pairs:
        raise InputError(f"{shown(files[0])}: lists no tiles; export it again")
    return Source(tuple(pairs))


def _member(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value.replace("\\", "/") if isinstance(value, str) and "\0" not in value else ""


def _nnunet(folder: Path) -> Source:
    """A two-dimensional data set of nnU-Net: RGB images in one file each, under imagesTr/ and labelsTr/."""
    file = folder / NNUNET
    content = read_json_file(file)
    labels = content.get("labels") if isinstance(content, dict) else None
    ending = content.get("file_ending") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not isinstance(ending, str) or not _is_picture(f"x{ending}"):
        fix = "two-dimensional sets of PNG, TIFF or BMP files are read"
        raise InputError(f"{shown(file)}: has no `labels`, or no picture's `file_ending`; {fix}")
    classes = _nnunet_classes(file, labels)
    pairs, problems = [], []
    cases = [name for name in _names(folder / "imagesTr") if name.endswith(ending)]
    for name in cases:
        case, _, channel = _stem(name).rpartition("_")
        if channel != "0000":
            problems.append(
                f"{shown(folder / 'imagesTr' / name)}: one file for each channel; give RGB in one file, _0000"
            )
            continue
        mask = folder / "labelsTr" / f"{case}{ending}"
        pairs.append(SourcePair(f"imagesTr/{name}", folder / "imagesTr" / name, mask, "train", _slide(case)))
    if problems:
        raise ProblemsError(shown(folder), problems)
    if not pairs:
        raise InputError(f"{shown(folder)}: no images with the ending {brief(ending)} in imagesTr/; check {NNUNET}")
    return Source(tuple(pairs), classes)


def _nnunet_classes(file: Path, labels: Mapping[str, Any]) -> ClassMap:
    names, values, ignored = [], [], []
    for name, value in labels.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(
                f"{shown(file)}: the label {brief(name)} is {brief(repr(value))}; only whole numbers are read"
            )
        if name == IGNORE:
            ignored.append(value)
        else:
            names.append(name.replace(",", " ").replace("=", " "))
            values.append(value)
    return ClassMap(tuple(names), tuple(values), ignored=tuple(ignored))
