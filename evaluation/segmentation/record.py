"""What a trained model says of itself: ``training.json`` beside its weights, and what it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evaluation.segmentation.leakage import Known
from evaluation.segmentation.settings import MOST_STEPS, TrainingSettings, check_size, weights_digest
from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.provenance import PROGRAM, file_sha256
from imaging.rawfile import read_bytes, shown

MODEL, RECORD, HISTORY = "model.safetensors", "training.json", "history.csv"
_SPEED_ALONE = ("workers", "cache", "device")


@dataclass(frozen=True)
class Record:
    """A model's ``encoder``, window ``size`` in px and ``classes``, and how it came about. ``file`` is its weights'.

    ``real``, ``synthetic`` and ``validation`` are numbers of images, ``dice`` is the validation's at ``best_step``,
    whose weights the model has, of ``steps`` in all; ``training`` and ``held_out`` are the images themselves.
    """

    file: Path
    encoder: str
    size: int
    seed: int
    classes: ClassMap
    real: int
    synthetic: int
    validation: int
    split: str
    steps: int
    best_step: int
    dice: float
    training: tuple[Known, ...]
    held_out: tuple[Known, ...]


def identity(
    settings: TrainingSettings, classes: ClassMap, device: str, parts: Mapping[str, Sequence[Known]]
) -> dict[str, Any]:
    """All that decides a model, as JSON: what a training that goes on must have in common with the one that began."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in _SPEED_ALONE}
    chosen["betas"] = list(settings.betas)
    # Of a file by what it holds, wherever it lies.
    chosen["encoder_weights"] = weights_digest(settings.encoder_weights) or settings.encoder_weights
    digests = {
        f"{name} images": hashlib.sha256(json.dumps([asdict(each) for each in kept]).encode()).hexdigest()
        for name, kept in parts.items()
    }
    return {**chosen, "classes": str(classes), "device type": device, **digests}


def write_record(path: Path, content: Mapping[str, Any], training: Sequence[Known], held_out: Sequence[Known]) -> None:
    """Write ``training.json``. Raises OSError."""
    samples = {"training": [_plain(each) for each in training], "validation": [_plain(each) for each in held_out]}
    whole = {"program": PROGRAM, **content, "samples": samples}
    path.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_record(model: Path) -> Record:
    """What there is beside the weights ``model``, or in the folder of a training.

    Raises:
        InputError: there is no such model, its record is missing or damaged, or the weights are not the record's.
    """
    file = model if model.name.endswith(".safetensors") else model / MODEL
    path = file.with_name(RECORD)
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
        record = _record(file, content)
        digest = content["model_sha256"]
    except InputError as error:
        fix = "give the folder of a finished `segmentation train`, with both files"
        raise InputError(f"{shown(model)}: no model ({error}); {fix}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        detail = brief(f"{type(error).__name__} {error}")
        raise InputError(f"{shown(path)}: not the record of a training ({detail}); train again") from error
    if file_sha256(file) != digest:
        raise InputError(f"{shown(file)}: not the weights that its {RECORD} tells of; put these back, or train again")
    return record


def _record(file: Path, content: dict[str, Any]) -> Record:
    settings, samples = content["settings"], content["samples"]
    record = Record(
        file=file,
        encoder=_text(settings["encoder"]),
        size=_whole(settings["size"]),
        seed=_whole(settings["seed"]),
        classes=ClassMap.parse(_text(content["classes"])),
        real=_whole(content["real"]),
        synthetic=_whole(content["synthetic"]),
        validation=_whole(content["validation"]),
        split=_text(content["split"]),
        steps=_whole(content["steps"]),
        best_step=_whole(content["best_step"]),
        dice=_share(content["dice"]),
        training=tuple(_known(each) for each in samples["training"]),
        held_out=tuple(_known(each) for each in samples["validation"]),
    )
    check_size(record.size)
    if not 0 < record.best_step <= record.steps <= MOST_STEPS:
        raise ValueError(f"step {record.best_step} of {record.steps}")
    return record


def _plain(each: Known) -> dict[str, Any]:
    return {name: value for name, value in asdict(each).items() if value}


def _known(content: dict[str, Any]) -> Known:
    if set(content) - {each.name for each in fields(Known)}:
        raise ValueError("an unknown column of a sample")
    texts = {name: _text(value) for name, value in content.items() if name not in ("masks", "synthetic")}
    masks = tuple(_text(each) for each in content.get("masks", ()))
    return Known(**texts, masks=masks, synthetic=content.get("synthetic", False) is True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{brief(repr(value))} is no text")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**62:
        raise TypeError(f"{brief(repr(value))} is no whole number")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise TypeError(f"{brief(repr(value))} is no share")
    return float(value)
