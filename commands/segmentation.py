"""`segmentation train` and `evaluate`: a model of real and in-silico images, judged against annotators' label maps."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch

from commands import VERSION
from commands.dataset import Event, Line
from commands.evaluation_requests import EvaluateRequest, EvaluationRequest, TrainRequest
from commands.machine import choose_device
from commands.notes import Note
from commands.samples import choose_samples, read_samples
from commands.segmentation_sets import TEST, check_apart, training_sets
from evaluation.segmentation.course import Step, Validated
from evaluation.segmentation.evaluation import (
    Predicted,
    check_classes,
    check_independent,
    load_model,
    mutual,
    predictions,
)
from evaluation.segmentation.intervals import LEVEL
from evaluation.segmentation.leakage import known
from evaluation.segmentation.metrics import FieldScore
from evaluation.segmentation.network import encoder_names
from evaluation.segmentation.pictures import overlay
from evaluation.segmentation.record import read_record
from evaluation.segmentation.report import Judged, Row, Table, as_text, fields_csv, model_names, rows_csv
from evaluation.segmentation.settings import TrainingSettings
from evaluation.segmentation.training import Event as TrainingEvent
from evaluation.segmentation.training import Reading, Remark, Trained
from evaluation.segmentation.training import train as train_model
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.images import write_png
from imaging.rawfile import shown
from sampler.option import check_options
from sampler.progress import Progress


def train(request: TrainRequest) -> Iterator[Event]:
    """Train a model. Raises InputError or SettingError for bad input, before the first step."""
    if request.encoder == "list":
        yield from map(Line, encoder_names())
        return
    check_options(request)
    settings = _settings(request)
    settings.check()
    source = _input(request)
    check_apart(request.output, [source, *request.synthetic])
    sets = training_sets(request, source)
    yield from map(Note, sets.notes)
    for event in train_model(sets.real, sets.synthetic, sets.validation, sets.classes, settings, request.output):
        yield _shown(event)


def evaluate(request: EvaluateRequest) -> Iterator[Event]:
    """Judge models. Raises InputError or SettingError for bad input, before anything is written."""
    check_options(request)
    device = choose_device(request.device)
    source = _input(request)
    if not request.model:
        raise InputError("`model`: give the folder that `segmentation train` made, or several of them")
    check_apart(request.output, [source, *request.model])
    found = read_samples(source)
    samples, split = choose_samples(found.samples, request.split, TEST)
    records = [read_record(path) for path in request.model]
    known_already = records[0].classes if found.classes is None else found.classes
    classes = known_already if request.classes is None else ClassMap.parse(request.classes)
    judged_on = [known(each) for each in samples]
    for path, record in zip(request.model, records, strict=True):
        check_classes(record, classes)
        check_independent(record, judged_on, shown(path))
    if any(each.synthetic for each in samples):
        yield Note("the fields are in-silico images: what a model makes of them says little about real ones")
    judged: list[Judged] = []
    total, done = len(samples) * len(records), 0
    with _new_folder(request.output) as folder:
        names = _file_names([each.name for each in samples])
        for name, path, record in zip(model_names(request.model), request.model, records, strict=True):
            model = load_model(path, str(device))
            scores: list[FieldScore] = []
            for file, each in zip(
                names,
                predictions(model, samples, classes, overlap=request.overlap, batch_size=request.batch_size),
                strict=True,
            ):
                _write_pictures(folder, name, file, each, len(classes))
                scores += each.scores
                done += 1
                yield Progress("judge", done, total)
            judged.append(Judged(name, record, tuple(scores)))
        between = mutual(samples, classes)
        rows = Table(split, request.bootstrap, request.seed).rows(judged, between)
        _write_tables(folder, request, source, judged, between, rows, split)
    yield from map(Line, as_text(rows))
    yield Line(f"evaluation: {request.output}")


def _settings(request: TrainRequest) -> TrainingSettings:
    both = {each.name for each in fields(TrainingSettings)} & {each.name for each in fields(TrainRequest)}
    chosen = {name: getattr(request, name) for name in both}
    device = choose_device(request.device)
    if request.devices > 1 and device.type == "cuda" and request.devices > torch.cuda.device_count():
        raise InputError(f"`devices` {request.devices}: there are only {torch.cuda.device_count()} CUDA devices")
    return TrainingSettings(**{**chosen, "device": str(device), "trusted": request.labels == "trusted"})


def _input(request: EvaluationRequest) -> Path:
    if request.input is None:
        raise InputError("which images? give a folder or a manifest of annotated ones (docs/evaluation.md)")
    return request.input


def _shown(event: TrainingEvent) -> Event:
    if isinstance(event, Reading):
        return Progress("read", event.done, event.total)
    if isinstance(event, Step):
        return Progress("train", event.done, event.total)
    if isinstance(event, Remark):
        return Note(event.text)
    if isinstance(event, Validated):
        best = ", the best yet" * event.best
        return Line(f"step {event.step}: loss {event.loss:.4f}, validation Dice {100 * event.dice:.2f}{best}")
    assert isinstance(event, Trained)
    record = event.record
    return Line(f"model: {record.file} (of step {record.best_step}, validation Dice {100 * record.dice:.2f})")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets the name ``path``, which is free, if all ends well; else nothing is left of it.

    Raises:
        InputError: there is something at ``path``, or it cannot be written.
    """
    try:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        if path.exists() or path.is_symlink():
            raise InputError(f"{shown(path)}: is there already, and not empty; choose a new folder for `output`")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{secrets.token_hex(6)}.part")
        partial.mkdir()
        try:
            yield partial
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown(path)}: cannot be written ({reason}); choose another folder") from error


def _file_names(names: Sequence[str]) -> list[str]:
    """A file's name for each sample, without folders; numbered where several would be the same."""
    result: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = Path(name).stem[:60] or "field"
        candidate, count = stem, 1
        while candidate.lower() in taken:
            count += 1
            candidate = f"{stem}_{count}"
        taken.add(candidate.lower())
        result.append(f"{candidate}.png")
    return result


def _write_pictures(folder: Path, model: str, name: str, each: Predicted, num_classes: int) -> None:
    for part in ("predictions", "overlays"):
        (folder / part / model).mkdir(parents=True, exist_ok=True)
    write_png(folder / "predictions" / model / name, each.labels.astype("uint8"))
    write_png(folder / "overlays" / model / name, overlay(each.image, each.annotations, each.labels, num_classes))


def _write_tables(
    folder: Path,
    request: EvaluateRequest,
    source: Path,
    judged: Sequence[Judged],
    between: Sequence[FieldScore],
    rows: Sequence[Row],
    split: str,
) -> None:
    """The summary as CSV and JSON, and every field's scores."""
    (folder / "summary.csv").write_text(rows_csv(rows), encoding="utf-8")
    content = {
        "program": "stainloom",
        "version": VERSION,
        "input": source.name,
        "split": split,
        "overlap": request.overlap,
        "bootstrap": {"rounds": request.bootstrap, "seed": request.seed, "level": LEVEL, "of": "patients or slides"},
        "rows": [asdict(row) for row in rows],
    }
    (folder / "summary.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "fields.csv").write_text(fields_csv(judged, between), encoding="utf-8")
