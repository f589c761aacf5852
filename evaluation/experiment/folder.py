"""An experiment's folder: what lies where, trainings that are there whole or not at all, and who works on which.

A training is over when its ``score.json`` is there, which is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.experiment.plan import Plan, Run, extended, plan_json, read_plan
from evaluation.experiment.subsets import Subset
from imaging.errors import InputError
from imaging.locks import file_lock
from imaging.output import write_text
from imaging.rawfile import read_bytes, shown

PLAN, SCORE = "plan.json", "score.json"
RUNS, SETS, WORK = "runs", "sets", "work"


@dataclass(frozen=True)
class Folder:
    """The folder ``root``."""

    root: Path

    @property
    def plan_path(self) -> Path:
        """Where the plan is."""
        return self.root / PLAN

    def run(self, run: Run) -> Path:
        """A training's own folder."""
        return self.root / RUNS / run.id

    def set(self, subset: Subset, name: str) -> Path:
        """Where the further images of ``subset`` are, of one kind."""
        return self.root / SETS / subset.key / name

    def create(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            InputError: it cannot be made, or holds something else than an experiment.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            there = {name for name in os.listdir(self.root) if not name.endswith(".part")}
            if PLAN not in there and not there <= {RUNS, SETS, WORK}:
                raise InputError(f"{shown(self.root)}: not empty, and no experiment; choose a new folder for `output`")
            for part in (RUNS, SETS, f"{WORK}/locks", f"{WORK}/failed"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{shown(self.root)}: cannot be written to ({reason}); choose another folder") from error

    def settle(self, asked: Plan) -> Plan:
        """The plan of this folder: ``asked``, or what was planned before with what is new in it.

        Raises:
            InputError: something else was planned.
        """
        path = self.plan_path
        plan = asked
        if path.exists():
            try:
                plan = extended(read_plan(path), asked)
            except InputError as error:
                raise InputError(f"{shown(self.root)}: {error}") from error
        text = plan_json(plan)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        return plan

    def score(self, run: Run, digest: str) -> dict[str, Any] | None:
        """What a training came to; None if it is not over, or was one of another plan (`Plan.digest`)."""
        try:
            found = json.loads(read_bytes(self.run(run) / SCORE))
        except (ValueError, RecursionError):  # InputError, too
            return None
        whole = isinstance(found, dict) and found.get("id") == run.id and found.get("plan") == digest
        return found if whole and isinstance(found.get("fields"), list) else None

    def write_score(self, run: Run, content: dict[str, Any]) -> None:
        """Say that a training is over. Raises InputError."""
        write_text(self.run(run) / SCORE, json.dumps(content))
        with suppress(OSError):
            self._failure(run.id).unlink(missing_ok=True)

    def _failure(self, name: str) -> Path:
        return self.root / WORK / "failed" / f"{name}.json"

    def fail(self, name: str, reason: str) -> None:
        """Record why a training or a set could not be made."""
        write_text(self._failure(name), json.dumps({"id": name, "reason": reason}))

    def failures(self) -> dict[str, str]:
        """Reasons, by what failed."""
        found = {}
        folder = self.root / WORK / "failed"
        for name in sorted(os.listdir(folder)):
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                found[name.removesuffix(".json")] = str(json.loads(read_bytes(folder / name))["reason"])
        return found

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Within, whether nobody else works on ``name``. The claim ends with the process, however that ends."""
        with file_lock(self.root / WORK / "locks" / name, wait=False) as mine:
            yield mine

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Within, nobody else works on ``name``; waits for others."""
        with file_lock(self.root / WORK / "locks" / name, wait=True):
            yield
