"""From a request to an experiment's plan: images looked at, splits, subsets, and all that decides the results."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands import VERSION
from commands.experiment_requests import EXPERIMENT_TRAINING, ExperimentRequest
from commands.loras import read_loras
from commands.notes import Note
from commands.options import add_options, read_options
from commands.requests import MethodRequest
from commands.samples import read_samples
from commands.weights import weights_sha256
from dataset.procedural import draw_world
from evaluation.experiment.arms import METHOD_SETS, needed_first, parse_arms, parse_comparison, parse_rounds
from evaluation.experiment.folder import SETS, WORK, Folder
from evaluation.experiment.inputs import Looked, look_at
from evaluation.experiment.plan import Plan, Question
from evaluation.experiment.runner import Bench
from evaluation.experiment.segmenter import Segmenter
from evaluation.experiment.subsets import SPLITS, TEST, choose_subsets, leaks, make_splits
from evaluation.samples import Sample
from evaluation.segmentation.settings import MOST_STEPS, TrainingSettings, weights_digest, weights_file
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.output import is_within, write_text
from imaging.rawfile import shown
from sampler.progress import Progress, Ticks
from sampler.settings import Settings

NEVER = MOST_STEPS
"""As many validations without a better one as no training has."""
METHOD_MACHINE = ("impl", "graphs", "batch_size", "cache")
"""Options of `generate` beside the method's that ``method`` may give: they change speed and memory alone."""


@dataclass(frozen=True)
class MethodOptions:
    """What is asked of the method: its settings by field name, and how they are computed."""

    overrides: dict[str, Any]
    machine: dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise InputError(f"`method`: {message}")


def read_method(text: str) -> MethodOptions:
    """``--steps 50 --cache 0`` as `generate` reads it. Raises InputError."""
    parser = _Parser(prog="method", add_help=False, allow_abbrev=False)
    add_options(parser.add_argument_group(), Settings)
    add_options(parser.add_argument_group(), MethodRequest, METHOD_MACHINE)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"`method` {brief(text)}: {error}; quote it as a shell wants") from error
    given = vars(parser.parse_args(words))
    machine = {name: value for name, value in given.items() if name in METHOD_MACHINE}
    return MethodOptions(read_options(Settings, given), read_options(MethodRequest, machine))


def read_shares(text: str, name: str) -> tuple[float, ...]:
    """``0.1,1`` -> (0.1, 1.0). Raises InputError, saying the option's ``name``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{0,3}\.?[0-9]{0,6}", part) and part.strip(".") for part in parts):
        raise InputError(f"`{name}` {brief(text)}: give shares with commas, such as 0.1,0.25,1")
    shares = tuple(sorted({float(part) for part in parts}))
    if not 0.0 < shares[0] <= shares[-1] <= 1.0:
        raise InputError(f"`{name}` {brief(text)}: shares are above 0 and at most 1")
    return shares


def input_of(request: ExperimentRequest) -> tuple[Path, Path | None]:
    """The annotated images and the test set. A demonstration's are drawn into the experiment's folder."""
    if (request.input is None) != request.demo:
        raise InputError("which images? give a folder or a manifest, or --demo for a small drawn world (not both)")
    if request.input is not None:
        for given in (request.input, request.test):
            if given is not None and (is_within(request.output, given) or is_within(given, request.output)):
                raise InputError(
                    f"{shown(request.output)}: must not lie among the inputs, nor these in it; choose another"
                )
        return request.input, request.test
    if request.test is not None:
        raise InputError("`test`: the demonstration draws its own; leave it out")
    world = draw_world(request.output / WORK / "world", slides=(8, 2, 4), side=64, seed=request.seed)
    return world.annotated, world.test


def open_bench(request: ExperimentRequest, segmenter: Segmenter) -> Generator[Note | Progress, None, Bench]:
    """Look at everything, write the plan or compare it with the one that is there.

    Raises:
        InputError: an option, an image, a leak between splits (all of these at once), or another plan in this folder.
    """
    rounds = parse_rounds(request.rounds)
    arms = parse_arms(request.arms, rounds)
    shares = read_shares(request.shares, "shares")
    expanded = (
        tuple(share for share in shares if share < 1.0)
        if request.expand is None
        else read_shares(request.expand, "expand")
    )
    if not expanded or not set(expanded) <= set(shares):
        raise InputError("`expand`: give shares that are among `shares`, so that there is something to compare with")
    first, second = parse_comparison(request.main, arms)
    folder = Folder(request.output)
    folder.create()
    with folder.locked("plan"):
        path, test_path = input_of(request)
        source = read_samples(path)
        test = None if test_path is None else _apart(read_samples(test_path).samples)
        samples = [each for each in source.samples if not each.synthetic]
        _check_samples(path, [*source.samples, *(test or ())])
        classes = source.classes if request.classes is None else ClassMap.parse(request.classes)
        looked: Looked = yield from Ticks("read", 2 * (len(samples) + len(test or ()))).during(
            look_at(shown(path), [*samples, *(test or ())], classes)
        )
        yield from (Note(text) for text in looked.notes)
        label = _label(request.score, looked.classes)
        shares_of = {name: each[0 if label is None else label] for name, each in looked.fractions.items()}
        splits = make_splits(
            samples,
            test,
            shares_of,
            validation_share=request.validation_share,
            test_share=request.test_share,
            seed=request.seed,
        )
        problems = leaks(splits, looked.images)
        if problems:
            raise ProblemsError(shown(path), problems)
        subsets = choose_subsets(splits, shares_of, shares, request.draws, request.seed)
        digest = weights_digest(request.encoder_weights)
        settings = {
            "version": VERSION,
            "seed": request.seed,
            "classes": str(looked.classes),
            "score": request.score,
            "keep": request.keep,
            "headroom": request.headroom,
            "training": _training(request),
            **({} if digest is None else {"encoder_weights_sha256": digest}),
            "method": _method(request, arms),
            "images": {
                each.name: [each.split, each.group, looked.images[each.name], *looked.masks[each.name]]
                for each in splits.everything
            },
        }
        question = Question(first, second, expanded[0], request.effect)
        asked = Plan(question, subsets, expanded, arms, request.seeds, settings)
        plan = folder.settle(asked)
        for subset in plan.subsets:
            write_names(folder, subset.key, [each.name for each in splits.train if each.group in subset.train])
    if plan.later:
        yield Note(f"added to the plan after it was first written: {', '.join(plan.later)}; they are exploration")
    bench = Bench(plan, folder, splits, looked.classes, segmenter, request.keep)
    alone = [each for each in plan.subsets if each.share in expanded and len(bench.training_images(each)) == 1]
    if alone:
        yield Note(
            f"{len(alone)} of the subsets with further images have one annotated image: its targets can only be its "
            "own label map, turned, so there is no new layout to learn from; give larger `shares`"
        )
    return bench


def write_names(folder: Folder, subset: str, names: Sequence[str]) -> None:
    """The names of a subset's images as ``--only`` of `dataset` reads them."""
    place = names_path(folder, subset)
    text = "".join(f"{name}\n" for name in names)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists() or place.read_text(encoding="utf-8") != text:
        write_text(place, text)


def names_path(folder: Folder, subset: str) -> Path:
    """Where `write_names` writes."""
    return folder.root / SETS / subset / "images.txt"


def _apart(samples: Sequence[Sample]) -> list[Sample]:
    """Test images under names that no training image has."""
    return [replace(each, name=f"test/{each.name}", split="test") for each in samples]


def _check_samples(path: Path, samples: Sequence[Sample]) -> None:
    problems = [f"{shown(each.image)}: is in silico; an experiment makes its own" for each in samples if each.synthetic]
    problems += [
        f"{shown(each.image)}: has {len(each.masks)} annotators' label maps; training takes one, in masks/"
        for each in samples
        if len(each.masks) > 1 and SPLITS.get(each.split.lower()) != TEST
    ]
    problems += [f"{brief(each.name)}: a name with a line break; rename it" for each in samples if "\n" in each.name]
    if problems:
        raise ProblemsError(shown(path), problems)


def _label(score: str | None, classes: ClassMap) -> int | None:
    if score is not None and score not in classes.names:
        raise InputError(f"`score` {brief(score)}: no class; there are {', '.join(classes.names)}")
    return None if score is None else classes.names.index(score)


def _training(request: ExperimentRequest) -> dict[str, Any]:
    options = {name: getattr(request, name) for name in EXPERIMENT_TRAINING if name != "workers"}
    options["patience"] = request.patience if request.patience > 0 else NEVER
    TrainingSettings(**options).check()
    if weights_file(request.encoder_weights) is not None:
        options["encoder_weights"] = str(weights_file(request.encoder_weights))
    return options


def _method(request: ExperimentRequest, arms: Sequence[Any]) -> dict[str, Any] | None:
    """What the method is asked with, if any arm wants it."""
    if not any(name in (*METHOD_SETS, "vae") for name in needed_first(arms)):
        return None
    read_method(request.method)
    return {
        "options": " ".join(shlex.split(request.method)),
        "weights": Path(request.weights).name,
        "weights_sha256": weights_sha256(request.weights),
        **({"lora": [each.content for each in read_loras(request.lora)]} if request.lora else {}),
        "dtype": request.dtype,
        "threads": request.threads,
    }
