"""A score for people: lines to print, and tables for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from evaluation.review.answers import CHOICES, FINDINGS, Answers
from evaluation.review.key import Key
from evaluation.review.readers import Agreement, Told
from evaluation.review.score import Score
from evaluation.review.statistics import Estimate
from imaging.errors import brief, one_line

MOST_IMAGES = 10


def describe(score: Score) -> Iterator[str]:
    """Lines for a person."""
    for each in score.readers:
        left = "" if each.answered == each.asked else f" (only {each.answered} of {each.asked} answered)"
        yield f"reader {brief(each.reader)}{left}: {_told(each.told)}"
        if each.with_self.count:
            yield f"  with themselves: {_agreed(each.with_self)}"
        yield f"  {each.seconds:.0f} s an answer in the middle, {each.revised} answers changed later"
    if score.together is not None:
        yield f"all readers: {_told(score.together)}"
    for one, other, agreement in score.between:
        yield f"{brief(one)} and {brief(other)}: {_agreed(agreement)}"
    if score.all_readers is not None:
        yield f"all readers with each other: {_agreed(score.all_readers)}"
    for what, groups in (("set", score.arms), ("mostly", score.classes)):
        for group in groups:
            parts = [
                f"{name} {_range(rate)}" for name, rate in _rates(group.accuracy, group.caught, group.false_alarms)
            ]
            found = [f"{name} {100 * share:.0f} %" for name, share in group.findings.items() if share]
            seen = f"; seen: {', '.join(found)}" if found else ""
            yield f"{what} {brief(group.name)}, {group.images} questions: {', '.join(parts)}{seen}"
    caught = [each for each in score.images if each.synthetic and 2 * each.called > each.readers > 0]
    if caught:
        yield f"most often caught ({len(caught)} by more than half of the readers):"
    for image in caught[:MOST_IMAGES]:
        seen = ", ".join(f"{name} {count}" for name, count in image.findings.items() if count)
        name = brief(image_id(image.name), 100)
        yield f"  {name} of {brief(image.arm)}: {image.called} of {image.readers}  {seen}".rstrip()


def _rates(accuracy: Estimate, caught: Estimate, alarms: Estimate) -> Iterator[tuple[str, Estimate]]:
    yield "right", accuracy
    if caught.value is not None and alarms.value is not None:
        yield "caught", caught
    if alarms.value is not None:
        yield "false alarms", alarms


def image_id(name: str) -> str:
    """What `review reject` takes: the stem of an image's file."""
    return PurePosixPath(name).stem


def _told(told: Told) -> str:
    parts = [f"right {_range(told.accuracy)}"]
    if told.caught.value is not None and told.false_alarms.value is not None:
        parts += [f"caught {_range(told.caught)}", f"false alarms {_range(told.false_alarms)}"]
    parts.append(f"AUC {_range(told.area)}")
    least = min(told.above, told.below)
    chance = f", of which chance gives {100 * told.by_chance:.0f} %" if abs(told.by_chance - 0.5) > 0.005 else ""
    return f"{', '.join(parts)}; {told.verdict} (one-sided p = {least:.2g}{chance})"


def _agreed(agreement: Agreement) -> str:
    kappa = "not defined" if agreement.kappa.value is None else _range(agreement.kappa)
    return f"the same {_range(agreement.share)} of {agreement.count}, kappa {kappa}"


def _range(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown"
    inside = "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.value:.2f}{inside}"


def answers_table(key: Key, answers: Sequence[Answers]) -> str:
    """CSV: a row for each answer, with the truth."""
    rows = []
    for reader in answers:
        for position, trial in enumerate(key.trials, start=1):
            answer = reader.by_trial.get(trial.id)
            if answer is None:
                continue
            truth, choice = (CHOICES[key.mode][(sign + 1) // 2] for sign in (key.truth(trial), answer.sign))
            images = [key.images[index] for index in trial.images]
            rows.append(
                [
                    *(reader.reader, position, trial.id, trial.repeat_of),
                    " | ".join(key.arms[each.arm].name for each in images),
                    " | ".join(each.name for each in images),
                    *(truth, choice, int(truth == choice), answer.confidence),
                    *(int(each in answer.findings) for each in FINDINGS),
                    *(answer.comment, answer.seconds, answer.revisions),
                ]
            )
    head = ["reader", "position", "trial", "repeat_of", "set", "image", "truth", "choice", "right", "confidence"]
    return _csv([[*head, *FINDINGS, "comment", "seconds", "revisions"], *rows])


def images_table(score: Score) -> str:
    """CSV: a row for each image, those first that gave themselves away most."""
    rows = [
        [
            *(image_id(each.name), each.arm, each.name, int(each.synthetic), each.readers, each.called),
            *(round(each.sureness, 3), *each.findings.values(), " | ".join(each.comments)),
        ]
        for each in score.images
    ]
    head = ["id", "set", "image", "synthetic", "readers", "called_synthetic", "sureness"]
    return _csv([[*head, *FINDINGS, "comments"], *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(each) for each in row] for row in rows])
    return text.getvalue()


def _cell(value: object) -> object:
    """Text on one line; what a spreadsheet would compute stands behind an apostrophe."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
