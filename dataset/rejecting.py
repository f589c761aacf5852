"""Setting images of a finished dataset aside by name, as a person decides who has looked at them. Nothing is deleted.

Files are copied to ``rejected/``, then the row says so, then the originals go: wherever this ends, the same command
goes on, and until it is through the dataset counts as unfinished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from dataset.calibration import Calibration
from dataset.exports import NNUNET, WEBDATASET, export
from dataset.folder import KINDS, REJECTED, Folder
from dataset.plan import Item, Plan
from dataset.summary import FINISHED, Totals, counted_state, finish, write_checksums
from dataset.tables import read_json_file
from imaging.errors import InputError, ProblemsError, brief
from imaging.output import replacing, write_text
from imaging.provenance import file_sha256
from imaging.rawfile import read_bytes, shown

NAMES = ("file", "mask_file", "trusted_mask_file")
"""Of a row's columns with files, in the order of `KINDS`."""


def reject(folder: Folder, ids: Sequence[str], reason: str) -> tuple[Totals, tuple[str, ...]]:
    """Set the images ``ids`` aside and write manifests, card and checksums anew; returns also which were aside before.

    Raises:
        ProblemsError: ids that are none of the dataset's images, or whose files are damaged; nothing is changed then.
        InputError: this is no finished dataset, others work on it, or something cannot be written.
    """
    settings = folder.settings()
    plan = folder.plan()
    if plan is None:
        raise InputError(f"{shown(folder.root)}: its plan is not made yet, so there are no images to set aside")
    with folder.locked("finish"):
        for unit in plan.units:
            if not all(folder.is_done(item) for item in unit.items):
                with folder.claimed(unit) as idle:
                    if not idle:
                        raise InputError(f"{shown(folder.root)}: is being made right now; wait until it is finished")
        calibration, least = _calibration(folder), settings.get("min_fidelity")
        if isinstance(least, bool) or not isinstance(least, int | float):
            raise InputError(f"{shown(folder.root)}: its settings are damaged; run the dataset's command again")
        rows = _rows(folder, plan, ids)
        marker = folder.work / FINISHED
        marker.unlink(missing_ok=True)
        before = []
        for item, row in rows:
            if row["rejected"]:
                before.append(item.id)
            else:
                _set_aside(folder, item, row, reason)
            _clear(folder, item)
        totals = finish(folder, plan, calibration, float(least))
        places = {"nnunet": NNUNET, "webdataset": WEBDATASET}
        exported = [kind for kind, place in places.items() if os.path.isdir(folder.root / place)]
        for kind in exported:
            export(folder, plan, kind)
        if exported:
            write_checksums(folder, {})
        if not totals.damaged:
            marker.write_text(counted_state(folder), encoding="utf-8")
    return totals, tuple(before)


def _calibration(folder: Folder) -> Calibration:
    path = folder.work / "calibration.json"
    content = read_json_file(path)
    try:
        return Calibration.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{shown(path)}: damaged; run the dataset's command again") from error


def _rows(folder: Folder, plan: Plan, ids: Sequence[str]) -> list[tuple[Item, dict[str, Any]]]:
    """Item and row of each image, all of them checked."""
    items = {item.id: item for item in plan.items}
    missing = sum(not folder.is_done(item) and not folder.failure_path(item.id).exists() for item in plan.items)
    if missing:
        raise InputError(
            f"{shown(folder.root)}: {missing} images are still to be made; run the dataset's command first"
        )
    rows, problems = [], []
    for each in dict.fromkeys(ids):
        row = folder.row(items[each]) if each in items else None
        if row is None:
            problems.append(f"{brief(each)}: no image of {shown(folder.root)}; see the ids in its manifest")
        elif not _whole(folder, row):
            problems.append(f"{brief(each)}: its files or its row are damaged; run the dataset's command to mend them")
        else:
            rows.append((items[each], row))
    if problems:
        raise ProblemsError(shown(folder.root), problems)
    return rows


def _whole(folder: Folder, row: dict[str, Any]) -> bool:
    """Whether a row has the files that it names."""
    if not isinstance(row.get("rejected"), bool) or not isinstance(row.get("reasons"), list):
        return False
    base = f"{REJECTED}/" if row["rejected"] else ""
    for name, kind in zip(NAMES, KINDS, strict=True):
        wanted = f"{base}{kind}/{row['id']}.png"
        path = folder.root / wanted
        if row.get(f"{name}_name") != wanted or not path.is_file() or file_sha256(path) != row.get(f"{name}_sha256"):
            return False
    return True


def _set_aside(folder: Folder, item: Item, row: dict[str, Any], reason: str) -> None:
    targets = folder.files(item.id, rejected=True)
    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(*targets) as partials:
        for source, partial in zip(folder.files(item.id, rejected=False), partials, strict=True):
            partial.write_bytes(read_bytes(source))
    named = {f"{name}_name": f"{REJECTED}/{kind}/{item.id}.png" for name, kind in zip(NAMES, KINDS, strict=True)}
    changed = {**row, **named, "rejected": True, "reasons": [*row["reasons"], reason]}
    write_text(folder.row_path(item.id), json.dumps(changed))


def _clear(folder: Folder, item: Item) -> None:
    """Remove what lies in both places; the row names the files in ``rejected/``."""
    for path in folder.files(item.id, rejected=False):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be moved ({error.strerror}); change the permissions") from error
