"""A dataset's folder: what lies where, images that appear whole or not at all, and who works on what.

An image is done when its row is there, which is written last. Everything in ``work/`` is for going on; the rest is the
dataset, and is the same whoever made it, in however many pieces.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.plan import Item, Plan, Unit, plan_json, plan_table, read_plan
from imaging.errors import InputError, brief
from imaging.locks import file_lock
from imaging.output import replacing, write_text
from imaging.rawfile import shown

SETTINGS, PLAN = "settings.json", "plan.csv"
KINDS = ("images", "masks", "masks_trusted")
REJECTED = "rejected"
WORK = "work"


@dataclass(frozen=True)
class Folder:
    """The folder ``root``."""

    root: Path

    @property
    def work(self) -> Path:
        """What is needed to go on."""
        return self.root / WORK

    def row_path(self, item_id: str) -> Path:
        """The row of an image; it is there when the image is done."""
        return self.work / "rows" / f"{item_id}.json"

    def failure_path(self, item_id: str) -> Path:
        """Why an image could not be made."""
        return self.work / "failed" / f"{item_id}.json"

    def files(self, item_id: str, *, rejected: bool) -> list[Path]:
        """Image, mask and trusted mask of an image, as in `KINDS`."""
        base = self.root / REJECTED if rejected else self.root
        return [base / kind / f"{item_id}.png" for kind in KINDS]

    def create(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            InputError: it cannot be made, or holds something else than a dataset.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            there = {name for name in os.listdir(self.root) if not name.endswith(".part")}
            # Another process may be making the same folder right now.
            if SETTINGS not in there and not there <= {WORK, *KINDS}:
                raise InputError(f"{shown(self.root)}: not empty, and no dataset; choose a new folder for `output`")
            for part in (*KINDS, f"{WORK}/rows", f"{WORK}/failed", f"{WORK}/locks", f"{WORK}/workers"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{shown(self.root)}: cannot be written to ({error.strerror}); choose another folder"
            ) from error

    def settle(self, settings: Mapping[str, Any], inputs: Mapping[str, str | None]) -> None:
        """Let the dataset be one of these ``settings`` and ``inputs``, or check that it is. A mere plan is not kept.

        Raises:
            InputError: images were begun with others.
        """
        path, known = self.root / SETTINGS, self.work / "input.json"
        texts = {path: json.dumps(settings, indent=1, sort_keys=True) + "\n", known: json.dumps(inputs)}
        if all(each.exists() and each.read_bytes() == text.encode() for each, text in texts.items()):
            return
        if any((self.work / "workers").iterdir()) or any((self.work / "rows").iterdir()):
            self._compare(settings)
            raise InputError(f"{shown(self.root)}: was begun with another input; give that one, or another folder")
        for planned in (self.work / "plan.json", self.work / "calibration.json"):
            planned.unlink(missing_ok=True)
        for each, text in texts.items():
            write_text(each, text)

    def settings(self) -> dict[str, Any]:
        """What the dataset was asked with. Raises InputError if this is no dataset's folder."""
        path = self.root / SETTINGS
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{shown(self.root)}: no dataset's folder (it has no {SETTINGS}); check the path"
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"{shown(path)}: not the settings of a dataset; choose another folder")
        return found

    def _compare(self, settings: Mapping[str, Any]) -> None:
        before = self.settings()
        now = json.loads(json.dumps(settings))
        others = [key for key in sorted({**before, **now}) if before.get(key) != now.get(key)]
        if others:
            parts = [f"{key} {brief(str(before.get(key)))}, not {brief(str(now.get(key)))}" for key in others[:4]]
            what = "; ".join(parts)
            raise InputError(f"{shown(self.root)}: holds a dataset of other settings ({what}); give these, or another")

    def plan(self) -> Plan | None:
        """The plan, if there is one. Raises InputError if it cannot be read."""
        path = self.work / "plan.json"
        return read_plan(path) if path.exists() else None

    def write_plan(self, plan: Plan) -> None:
        """Write the plan, as a table too."""
        write_text(self.root / PLAN, plan_table(plan))
        write_text(self.work / "plan.json", plan_json(plan))

    def is_done(self, item: Item) -> bool:
        """Whether an image is there."""
        return self.row_path(item.id).exists()

    def done(self) -> set[str]:
        """The ids of all images that are there."""
        return {name.removesuffix(".json") for name in os.listdir(self.work / "rows") if not name.startswith(".")}

    def failures(self) -> dict[str, str]:
        """Reasons by the ids of images that could not be made."""
        found = {}
        for name in sorted(os.listdir(self.work / "failed")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found[name.removesuffix(".json")] = str(
                    json.loads((self.work / "failed" / name).read_text(encoding="utf-8"))["reason"]
                )
        return found

    def row(self, item: Item) -> dict[str, Any] | None:
        """The row of an image; None if it is not there or not whole."""
        try:
            found = json.loads(self.row_path(item.id).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) and found.get("id") == item.id else None

    def commit(self, item: Item, contents: list[bytes], row: Mapping[str, Any]) -> None:
        """Write an image's files, in the order of `KINDS`, and then its row.

        Raises:
            InputError: the system does not let them be written.
        """
        paths = self.files(item.id, rejected=bool(row["rejected"]))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(*paths) as partials:
            for partial, content in zip(partials, contents, strict=True):
                partial.write_bytes(content)
        write_text(self.row_path(item.id), json.dumps(row))
        self.failure_path(item.id).unlink(missing_ok=True)

    def fail(self, item: Item, reason: str) -> None:
        """Record that an image could not be made."""
        write_text(self.failure_path(item.id), json.dumps({"id": item.id, "reason": reason}))

    @contextmanager
    def claimed(self, unit: Unit) -> Iterator[bool]:
        """Within, whether nobody else works on ``unit``. The claim ends with the process, however that ends."""
        with file_lock(self.work / "locks" / unit.key, wait=False) as mine:
            yield mine

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Within, nobody else is in the part ``name``; waits for others."""
        with file_lock(self.work / "locks" / name, wait=True):
            yield

    def sweep(self) -> None:
        """Remove what a killed process left half-written. Only while nobody works."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(".") and name.endswith(".part"):
                    with suppress(OSError):
                        Path(folder, name).unlink()


@dataclass
class Heartbeat:
    """What others see of this process: a file in ``work/workers``, written anew after each image."""

    folder: Folder
    engine: str
    done: int = 0
    failed: int = 0
    started: float = field(default_factory=time.time)
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")

    def beat(self, unit: str) -> None:
        """Say that this process is alive, and what it works on."""
        content = {
            "name": self.name,
            "engine": self.engine,
            "started": self.started,
            "seen": time.time(),
            "done": self.done,
            "failed": self.failed,
            "unit": unit,
        }
        with suppress(InputError):
            write_text(self.folder.work / "workers" / f"{self.name}.json", json.dumps(content))
