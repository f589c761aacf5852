"""`review`: a page for readers with its key, the score of their answers, and images set aside."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from commands import VERSION
from commands.dataset import Line
from commands.notes import Note
from commands.review_requests import ReviewMakeRequest, ReviewRejectRequest, ReviewScoreRequest
from commands.samples import SampleSet, read_samples
from dataset.folder import Folder
from dataset.rejecting import reject as set_aside
from evaluation.review.answers import read_answers
from evaluation.review.key import read_key
from evaluation.review.page import build_page
from evaluation.review.report import answers_table, describe, images_table
from evaluation.review.score import score as score_of
from evaluation.review.study import ImageSet, Wanted, make_study, most_reads
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.output import check_output_file, replacing
from imaging.rawfile import shown
from sampler.option import check_options
from sampler.progress import Progress, Ticks

PAGE, KEY = "review.html", "key.json"
SCORE, ANSWERS, IMAGES = "score.json", "answers.csv", "images.csv"

Event = Note | Line | Progress


def make(request: ReviewMakeRequest) -> Iterator[Event]:
    """Make a study. Raises InputError or SettingError for bad input, before anything is written."""
    check_options(request)
    given = None if request.classes is None else ClassMap.parse(request.classes)
    page, key = request.output / PAGE, request.output / KEY
    for path in (page, key):
        check_output_file(path, ())
        if os.path.lexists(path):
            raise InputError(
                f"{shown(request.output)}: holds a study, whose answers need its key; choose another `output`"
            )
    found = [read_samples(path) for path in (request.real, *request.insilico)]
    _check_kinds(found)
    names = _names([each.path for each in found])
    sets = [
        ImageSet(each.path, name, each.samples, synthetic=place > 0)
        for place, (each, name) in enumerate(zip(found, names, strict=True))
    ]
    seed = secrets.randbits(62) if request.seed is None else request.seed
    wanted = Wanted(request.count, request.repeats, request.mode, seed, request.side, VERSION)
    classes = given or found[0].classes
    study = yield from Ticks("read", most_reads(sets, classes, wanted)).during(make_study(sets, classes, wanted))
    yield from (Note(text) for text in study.notes)
    text = build_page(study.key, study.pictures)
    request.output.mkdir(parents=True, exist_ok=True)
    with replacing(page, key) as (new_page, new_key):
        new_page.write_text(text, encoding="utf-8")
        new_key.write_text(study.key.text(), encoding="utf-8")
    again = sum(bool(trial.repeat_of) for trial in study.key.trials)
    yield Line(f"study:   {len(study.key.trials)} questions, {again} of them repeats")
    yield Line(f"page:    {page} (give readers this file alone)")
    yield Line(f"key:     {key} (tells which are real: keep it from readers)")


def _check_kinds(found: list[SampleSet]) -> None:
    real, *others = found
    if any(sample.synthetic for sample in real.samples):
        raise InputError(f"{shown(real.path)}: holds in-silico images; give the folder of real ones first")
    seen = [os.path.realpath(real.path)]
    for each in others:
        if os.path.realpath(each.path) in seen:
            raise InputError(f"{shown(each.path)}: is given twice; give each folder once, the real one first")
        seen.append(os.path.realpath(each.path))


def _names(paths: list[Path]) -> list[str]:
    """The folders' own names, with numbers where two are the same."""
    names: list[str] = []
    for path in paths:
        stem = Path(os.path.realpath(path)).name or "images"
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names.append(name)
    return names


def score(request: ReviewScoreRequest) -> Iterator[Event]:
    """Score readers' answers. Raises InputError or ProblemsError for bad input, before anything is written."""
    check_options(request)
    if request.key is None:
        raise InputError("which key? give the study's key.json with --key")
    inputs = [*request.answers, request.key]
    paths = [request.output / name for name in (SCORE, ANSWERS, IMAGES)]
    key = read_key(request.key)
    answers = read_answers(request.answers, key)
    for path in paths:
        check_output_file(path, inputs)
    found = score_of(key, answers)
    contents = (json.dumps(asdict(found), indent=1) + "\n", answers_table(key, answers), images_table(found))
    with replacing(*paths) as partials:
        for partial, content in zip(partials, contents, strict=True):
            partial.write_text(content, encoding="utf-8")
    yield from (Line(text) for text in describe(found))
    yield Line(f"score:   {request.output}")


def reject(request: ReviewRejectRequest) -> Iterator[Event]:
    """Set images aside. Raises InputError or ProblemsError for bad input, before anything is changed."""
    check_options(request)
    totals, before = set_aside(Folder(request.dataset), request.ids, request.reason)
    if before:
        yield Note(f"{len(before)} of these were set aside before: {', '.join(before[:5])}{', …' * (len(before) > 5)}")
    yield Line(f"dataset: {request.dataset}: {totals.kept} kept, {totals.rejected} set aside in rejected/")
    if totals.damaged:
        yield Note(
            f"{len(totals.damaged)} other images are damaged or gone; run the dataset's command to make them again"
        )
