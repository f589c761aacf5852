"""What an experiment will do, written down before anything runs: subsets, arms, seeds, and the question it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.experiment.arms import KINDS, MOST_ROUNDS, REAL, Arm
from evaluation.experiment.subsets import Subset, share_text
from imaging.errors import InputError, brief
from imaging.rawfile import read_bytes, shown

Contents = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One training, and its judgement on the test set."""

    share: float
    draw: int
    arm: Arm
    seed: int

    @property
    def id(self) -> str:
        """Its folder's name, such as ``s10-d0-winter-4-seed0``."""
        return f"s{share_text(self.share)}-d{self.draw}-{self.arm.key.replace('@', '-')}-seed{self.seed}"


@dataclass(frozen=True)
class Question:
    """The one comparison that the verdict is on: ``first`` against ``second`` on the subsets of one ``share``.

    ``effect`` is the smallest difference of Dice that would matter.
    """

    first: Arm
    second: Arm
    share: float
    effect: float


@dataclass(frozen=True)
class Plan:
    """``expanded`` are the shares whose subsets get further images; on others only the annotated ones are trained on.

    ``settings`` is all else that decides the results, as JSON: the training's, the method's, digests of the inputs.
    ``later`` are arms, draws and seeds that came after the plan was first written, in words: what they show is
    exploration.
    """

    question: Question
    subsets: tuple[Subset, ...]
    expanded: tuple[float, ...]
    arms: tuple[Arm, ...]
    seeds: int
    settings: Contents
    later: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """How many further images are made of every annotated one."""
        return max(arm.rounds for arm in self.arms)

    @property
    def runs(self) -> list[Run]:
        """All trainings: on the annotated images alone first, the smallest and the largest subsets at the head."""
        real = [(subset, arm) for subset in self.subsets for arm in self.arms if arm.kind == REAL]
        ends = (min(each.share for each in self.subsets), max(each.share for each in self.subsets))
        real.sort(key=lambda pair: pair[0].share not in ends)
        others = [
            (subset, arm)
            for arm in self.arms
            if arm.kind != REAL
            for subset in self.subsets
            if subset.share in self.expanded
        ]
        return [
            Run(subset.share, subset.draw, arm, seed) for subset, arm in (*real, *others) for seed in range(self.seeds)
        ]

    def subset_of(self, run: Run) -> Subset:
        """What a run is trained on."""
        return next(each for each in self.subsets if (each.share, each.draw) == (run.share, run.draw))

    def digest(self) -> str:
        """SHA-256 of what decides a training's result, beside its own arm, subset and seed."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


def plan_json(plan: Plan) -> str:
    """As `read_plan` reads it."""
    return json.dumps(asdict(plan), indent=1) + "\n"


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises InputError if it is none."""
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
        question = content["question"]
        plan = Plan(
            Question(_arm(question["first"]), _arm(question["second"]), question["share"], question["effect"]),
            tuple(
                Subset(each["share"], each["draw"], tuple(each["train"]), tuple(each["validation"]))
                for each in content["subsets"]
            ),
            tuple(content["expanded"]),
            tuple(_arm(each) for each in content["arms"]),
            content["seeds"],
            content["settings"],
            tuple(content["later"]),
        )
        _check(plan)
        return plan
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{shown(path)}: the plan cannot be read ({brief(str(error))}); give another folder, or put it back"
        ) from error


def _arm(content: Contents) -> Arm:
    arm = Arm(content["kind"], content["rounds"])
    if arm.kind not in KINDS or type(arm.rounds) is not int or not 0 <= arm.rounds <= MOST_ROUNDS:
        raise ValueError(f"no arm {arm}")
    return arm


def _check(plan: Plan) -> None:
    """Raise ValueError for what `plan_json` never wrote."""
    shares = [plan.question.share, *plan.expanded, *(each.share for each in plan.subsets)]
    names = [name for each in plan.subsets for name in (*each.train, *each.validation)]
    whole = [plan.seeds, *(each.draw for each in plan.subsets)]
    good = (
        isinstance(plan.settings, dict)
        and all(isinstance(share, float) and 0.0 < share <= 1.0 for share in shares)
        and all(isinstance(name, str) for name in (*names, *plan.later))
        and all(type(number) is int and 0 <= number <= 10_000 for number in whole)
        and all(each.train and each.validation for each in plan.subsets)
        and {plan.question.first, plan.question.second} <= set(plan.arms)
        and isinstance(plan.question.effect, float)
        and bool(plan.subsets)
        and plan.seeds > 0
    )
    if not good:
        raise ValueError("not as it was written")


def extended(before: Plan, asked: Plan) -> Plan:
    """The plan of a folder in which ``before`` was planned and ``asked`` is wanted: more of the same, or the same.

    Further arms, choices of subsets and seeds may come later, and are marked. Nothing is taken back: what was planned
    stays, with its question.

    Raises:
        InputError: they differ in anything else.
    """
    differences = [
        f"{what} {brief(str(one))}, not {brief(str(other))}"
        for what, one, other in (
            ("share", before.expanded, asked.expanded),
            ("rounds", before.rounds, asked.rounds),
            *_settings_differences(before.settings, asked.settings),
        )
        if one != other
    ]
    known = {each.key: each for each in before.subsets}
    changed = [each.key for each in asked.subsets if known.get(each.key, each) != each]
    if {each.share for each in before.subsets} != {each.share for each in asked.subsets} or changed:
        differences.append("other subsets")
    if differences:
        what = "; ".join(differences[:4])
        raise InputError(f"was planned otherwise ({what}); ask for the same, or choose another folder")
    arms = tuple(dict.fromkeys((*before.arms, *asked.arms)))
    subsets = sorted(
        {each.key: each for each in (*before.subsets, *asked.subsets)}.values(),
        key=lambda each: (each.share, each.draw),
    )
    seeds = max(before.seeds, asked.seeds)
    new = [f"arm {arm.key}" for arm in arms if arm not in before.arms]
    new += [f"subset {each.key}" for each in subsets if each.key not in known]
    new += [f"seed {seed}" for seed in range(before.seeds, seeds)]
    return Plan(before.question, tuple(subsets), before.expanded, arms, seeds, before.settings, (*before.later, *new))


def _settings_differences(before: Contents, asked: Contents) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*before, *asked}):
        one, other = before.get(key), asked.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _settings_differences(one, other)
        else:
            found.append((key.replace("_", " "), one, other))
    return found


def described(plan: Plan) -> Sequence[str]:
    """What is planned, in lines for a person."""
    question = plan.question
    shares = sorted({each.share for each in plan.subsets})
    draws = 1 + max(each.draw for each in plan.subsets)
    return (
        f"question:  {question.first.key} against {question.second.key} on {100 * question.share:g} % of the slides; "
        f"{question.effect:g} Dice would matter",
        f"subsets:   {', '.join(f'{100 * share:g} %' for share in shares)} of the slides, {draws} choices of each",
        f"arms:      {', '.join(arm.key for arm in plan.arms)}",
        f"trainings: {len(plan.runs)}, with {plan.seeds} seeds",
    )
