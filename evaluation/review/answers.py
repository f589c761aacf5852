"""The file of answers that a page saves for one reader, also of a study that is not done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.review.jsonfile import Fields, read_json
from evaluation.review.key import SINGLE, Key
from imaging.errors import InputError, ProblemsError, brief
from imaging.rawfile import shown

FORMAT = "stainloom review answers"
CHOICES: Mapping[str, tuple[str, str]] = {SINGLE: ("real", "synthetic"), "pairs": ("left", "right")}
"""By mode; the first has the sign -1."""
SURE = 5
"""Confidence is from 1, a guess, to this."""
FINDINGS: Mapping[str, str] = {
    "crowded": "Crowded nuclei without stroma between them",
    "papillary": "Papillary look without supporting stroma",
    "membranes": "High density without cell membranes",
    "anisokaryosis": "Atypical nuclear size and shape (anisokaryosis)",
}
"""What the pathologist of Winter et al. (4.2) found in images made in silico."""
LONGEST_NAME, LONGEST_COMMENT = 60, 4000
_DAY = 86_400.0


@dataclass(frozen=True)
class Answer:
    """``sign`` is 1 for in-silico, or the right one of two, else -1; ``seconds`` were spent looking."""

    sign: int
    confidence: int
    findings: tuple[str, ...]
    comment: str
    seconds: float
    revisions: int


@dataclass(frozen=True)
class Answers:
    """What one reader said, by trial; trials without an answer are not there."""

    reader: str
    path: Path
    by_trial: Mapping[str, Answer]


def read_answers(paths: Sequence[Path], key: Key) -> list[Answers]:
    """The answers in files, each of another reader, to the study of ``key``.

    Raises:
        ProblemsError: files that cannot be read, are of another study, or hold what no page writes; two files of one
            reader. All of them.
    """
    found: list[Answers] = []
    problems = []
    for path in paths:
        try:
            found.append(_read(path, key))
        except InputError as error:
            problems.append(str(error))
    seen: dict[str, Path] = {}
    for each in found:
        name = each.reader.casefold()
        if name in seen:
            problems.append(
                f"{shown(each.path)}: of the reader {brief(each.reader)}, as is {shown(seen[name])}; give the last "
                "file of each reader alone, and let different readers take different names"
            )
        seen[name] = each.path
    if problems:
        raise ProblemsError("answers", problems)
    return found


def _read(path: Path, key: Key) -> Answers:
    content = read_json(path)
    name = shown(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{name}: no answers of a review; give the file that the page saved")
    fields = Fields(name, content)
    if fields.text("study") != key.study:
        raise InputError(f"{name}: answers to another study than the key is of; give the key of their own")
    reader = " ".join(fields.text("reader", LONGEST_NAME).split())
    if not reader or not reader.isprintable():
        raise InputError(f"{name}: the reader's name is empty or cannot be printed; mend it in the file")
    trials = {each.id for each in key.trials}
    by_trial: dict[str, Answer] = {}
    seen = set()
    for each in fields.objects("answers"):
        trial = each.text("trial")
        if trial not in trials or trial in seen:
            what = "answered twice" if trial in seen else "none of the study"
            raise InputError(f"{each.where}: the trial {brief(trial)} is {what}; give the file as the page saved it")
        seen.add(trial)
        answer = _answer(each, CHOICES[key.mode])
        if answer is not None:
            by_trial[trial] = answer
    if not by_trial:
        raise InputError(f"{name}: not one answer in it; give the file that was saved last")
    return Answers(reader, path, by_trial)


def _answer(fields: Fields, choices: tuple[str, str]) -> Answer | None:
    """None where the reader has not chosen yet."""
    findings = fields.texts("findings")
    unknown = [each for each in findings if each not in FINDINGS]
    if unknown or len(set(findings)) < len(findings):
        raise InputError(f"{fields.where}: findings are {brief(str(findings))}; known are {', '.join(FINDINGS)}")
    comment = fields.text("comment", LONGEST_COMMENT)
    seconds, revisions = fields.number("seconds", 1000 * _DAY), fields.whole("revisions")
    if any(name in fields.content and fields.content[name] is None for name in ("choice", "confidence")):
        return None
    sign = 2 * choices.index(fields.one_of("choice", choices)) - 1
    confidence = fields.whole("confidence", SURE + 1, low=1)
    return Answer(sign, confidence, tuple(findings), comment, seconds, revisions)
