"""A training's folder: for one process at a time, and for one training."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.segmentation.record import RECORD
from imaging.errors import InputError, brief
from imaging.locks import file_lock
from imaging.output import write_text
from imaging.rawfile import read_bytes, shown

WORK, IDENTITY = "work", "identity.json"


@contextlib.contextmanager
def claimed(folder: Path, asked: dict[str, Any]) -> Iterator[Path]:
    """The folder's ``work``, if it is new or that of a training of the same kind; for this process alone.

    Raises:
        InputError: it cannot be made, holds something else, or is in use.
    """
    work = folder / WORK
    path = work / IDENTITY
    text = json.dumps(asked, indent=1, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {name for name in os.listdir(folder) if not name.endswith(".part")}
        if there and not there & {WORK, RECORD}:
            raise InputError(f"{shown(folder)}: not empty, and no training's; choose a new folder")
        work.mkdir(exist_ok=True)
        with file_lock(work / "lock", wait=False) as mine:
            if not mine:
                raise InputError(f"{shown(folder)}: another process trains there; wait, or choose another")
            done = folder / IDENTITY
            if done.exists() or path.exists():
                _compare(folder, done if done.exists() else path, asked)
            else:
                write_text(path, text)
            yield work
            if (folder / RECORD).exists():
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or brief(str(error))
        raise InputError(f"{shown(folder)}: cannot be written to ({reason}); choose another folder") from error


def _compare(folder: Path, path: Path, asked: dict[str, Any]) -> None:
    try:
        before = json.loads(read_bytes(path).decode("utf-8"))
        assert isinstance(before, dict)
    except (ValueError, RecursionError, AssertionError) as error:
        raise InputError(f"{shown(path)}: damaged; remove the folder, or choose another") from error
    now = json.loads(json.dumps(asked))
    others = [name for name in sorted({**before, **now}) if before.get(name) != now.get(name)]
    if others:
        values = {name: f"{name} {brief(str(before.get(name)))}, not {brief(str(now.get(name)))}" for name in others}
        what = "; ".join(name if name.endswith(" images") else values[name] for name in others[:4])
        raise InputError(f"{shown(folder)}: holds a training of other settings ({what}); give these, or another folder")
