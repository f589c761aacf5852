"""Datasets as other programs read them: nnU-Net's raw format, and WebDataset's shards."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataset.folder import Folder
from dataset.plan import Plan
from dataset.quality import UNTRUSTED
from dataset.summary import MANIFEST
from imaging.images import encode_png
from imaging.labels import ClassMap
from imaging.maskfile import read_mask
from imaging.output import replacing
from imaging.rawfile import read_bytes

NNUNET, WEBDATASET = "nnunet/Dataset001_InSilico", "webdataset"
SHARD = 1000
"""Images in one shard."""


def export(folder: Folder, plan: Plan, kind: str) -> int:
    """Write the kept images as ``kind``, nnunet or webdataset, in the folder; returns how many. Raises InputError."""
    return _nnunet(folder, plan.classes) if kind == "nnunet" else _webdataset(folder, plan.classes)


def kept_rows(folder: Folder) -> Iterator[dict[str, Any]]:
    """The rows of the manifest, in its order."""
    with (folder.root / MANIFEST).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _nnunet(folder: Folder, classes: ClassMap) -> int:
    """RGB images in one file each, ``imagesTr/ID_0000.png``, and ``labelsTr/ID.png``; ignored pixels have label C."""
    root = folder.root / NNUNET
    shutil.rmtree(root, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    count, ignored = 0, False
    for row in kept_rows(folder):
        labels = read_mask(folder.root / row["mask_file_name"]).numbers
        assert labels is not None
        if (labels == UNTRUSTED).any():
            ignored = True
            labels = np.where(labels == UNTRUSTED, len(classes), labels)
        _write(root / "labelsTr" / f"{row['id']}.png", encode_png(labels.astype(np.uint8)))
        _link(folder.root / row["file_name"], root / "imagesTr" / f"{row['id']}_0000.png")
        count += 1
    names = dict(zip(_nnunet_names(classes), range(len(classes)), strict=True))
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {**names, **({"ignore": len(classes)} if ignored else {})},
        "numTraining": count,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    _write(root / "dataset.json", json.dumps(content, indent=1).encode())
    return count


def _nnunet_names(classes: ClassMap) -> list[str]:
    """Its first label must be called background."""
    return ["background", *classes.names[1:]]


def _webdataset(folder: Folder, classes: ClassMap) -> int:
    """Shards ``00000.tar`` … of ``ID.image.png``, ``ID.mask.png``, ``ID.trusted.png`` and ``ID.json``."""
    root = folder.root / WEBDATASET
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    count = 0
    shard: list[dict[str, Any]] = []
    for row in kept_rows(folder):
        shard.append(row)
        count += 1
        if len(shard) == SHARD:
            _write_shard(folder, root / f"{count // SHARD - 1:05d}.tar", shard)
            shard = []
    if shard:
        _write_shard(folder, root / f"{count // SHARD:05d}.tar", shard)
    _write(root / "classes.json", json.dumps(list(classes.names)).encode())
    return count


def _write_shard(folder: Folder, path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as (partial,), tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            parts = {
                "image.png": read_bytes(folder.root / row["file_name"]),
                "mask.png": read_bytes(folder.root / row["mask_file_name"]),
                "trusted.png": read_bytes(folder.root / row["trusted_mask_file_name"]),
                "json": json.dumps(row).encode(),
            }
            for ending, content in parts.items():
                # Time and owner stay at nothing, so that the same images give the same shard.
                head = tarfile.TarInfo(f"{row['id']}.{ending}")
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as (partial,):
        partial.write_bytes(content)


def _link(source: Path, target: Path) -> None:
    """The same file under another name where the disk allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        _write(target, read_bytes(source))
