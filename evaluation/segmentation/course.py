"""How far a training came, and the checkpoint that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from evaluation.segmentation.settings import TrainingSettings
from imaging.errors import InputError, brief
from imaging.output import replacing
from imaging.rawfile import is_file, shown

LAST, BEST = "last.ckpt", "best.safetensors"
KEEPER = "Keeper"
"""By this name of its part the history stands in a checkpoint."""


@dataclass(frozen=True)
class Step:
    """``done`` of ``total`` optimiser steps are taken."""

    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """After ``step`` steps: the mean loss since the last validation, and the Dice; whether it is the ``best`` yet."""

    step: int
    loss: float
    dice: float
    best: bool


@dataclass(frozen=True)
class Course:
    """How far a training came."""

    history: tuple[Validated, ...]

    @property
    def best(self) -> Validated:
        """The validation whose weights are kept."""
        return [each for each in self.history if each.best][-1]


class Checkpoints(CheckpointIO):
    """Files of Lightning's, whole or not at all; of tensors and plain values alone."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises InputError if the file cannot be written."""
        with replacing(path) as (partial,):
            try:
                torch.save(checkpoint, partial)
            except RuntimeError as error:  # what PyTorch makes of a full disk
                raise OSError(None, f"perhaps the disk is full: {brief(str(error), 80)}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Raises InputError for a file that cannot be read."""
        return _load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Of what passes between processes."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training's checkpoint, on the CPU. Raises InputError for a file that cannot be read or is none."""
    found = _load(path)
    try:
        course_of(found)
    except Exception as error:
        raise _damaged(path, error) from error
    return found


def course_of(checkpoint: Mapping[str, Any]) -> Course:
    """How far the training of a checkpoint came."""
    keepers = [state for name, state in checkpoint["callbacks"].items() if name == KEEPER]
    return Course(tuple(Validated(*each) for each in keepers[0]["history"]))


def is_over(course: Course, settings: TrainingSettings) -> str:
    """Why a training has ended: ``steps`` or ``patience``; empty if it has not."""
    since = len(course.history) - 1 - max(place for place, each in enumerate(course.history) if each.best)
    if since >= settings.patience:
        return "patience"
    return "steps" if course.history[-1].step >= settings.steps else ""


def _load(path: Path) -> dict[str, Any]:
    if not is_file(path):
        raise InputError(f"{shown(path)}: no file; remove the folder and train anew")
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _damaged(path, error) from error
    return found


def _damaged(path: Path, error: Exception) -> InputError:
    detail = brief(" ".join(f"{type(error).__name__} {error}".split()), 80)
    return InputError(f"{shown(path)}: damaged ({detail}); remove the folder and train anew")
