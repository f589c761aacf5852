"""One training of a plan: its images put together, a model trained on them, judged on the test set, written down."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.experiment.arms import REAL, Arm
from evaluation.experiment.folder import Folder
from evaluation.experiment.further import IGNORED, move_doubts, read_set
from evaluation.experiment.plan import Plan, Run
from evaluation.experiment.segmenter import Segmenter
from evaluation.experiment.subsets import Splits, Subset, random_order
from evaluation.samples import Sample, load_trusted
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.images import encode_png
from imaging.output import replacing
from imaging.provenance import file_sha256

TRAINING = "training"
HALF = 0.5


@dataclass(frozen=True)
class Bench:
    """Everything that trainings share. ``keep`` is the share of images that filters leave."""

    plan: Plan
    folder: Folder
    splits: Splits
    classes: ClassMap
    segmenter: Segmenter
    keep: float

    def training_images(self, subset: Subset) -> list[Sample]:
        """The annotated images of a subset."""
        return [each for each in self.splits.train if each.group in subset.train]

    def validation_images(self, subset: Subset) -> list[Sample]:
        """Those that choose its best model."""
        return [each for each in self.splits.validation if each.group in subset.validation]


def train(bench: Bench, run: Run) -> Generator[Any, None, dict[str, Any]]:
    """Train and judge; yields what the segmenter does, and returns what was written to ``score.json``.

    Raises:
        InputError: an image cannot be read or has changed; a result cannot be written.
    """
    plan, folder = bench.plan, bench.folder
    subset = plan.subset_of(run)
    real = bench.training_images(subset)
    synthetic = further_images(bench, run, real)
    options: Mapping[str, Any] = {
        **plan.settings["training"],
        "seed": run.seed,
        "real_share": HALF if run.arm.kind == "half" else None,
    }
    place = folder.run(run) / TRAINING
    place.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    trained = yield from bench.segmenter.train(
        real, synthetic, bench.validation_images(subset), bench.classes, options, place
    )
    fields = bench.segmenter.judge(trained.model, bench.splits.test, bench.classes, options)
    content = {
        "id": run.id,
        "plan": plan.digest(),
        "share": run.share,
        "draw": run.draw,
        "arm": run.arm.key,
        "seed": run.seed,
        "real": len(real),
        "synthetic": len(synthetic),
        "groups": len(subset.train),
        "steps": trained.steps,
        "validation": trained.validation,
        "seconds": round(time.monotonic() - start, 1),
        "model": trained.model.relative_to(folder.run(run)).as_posix(),
        "model_sha256": file_sha256(trained.model),
        "images_sha256": digest_of_images([*real, *synthetic]),
        "fields": [asdict(each) for each in fields],
    }
    folder.write_score(run, content)
    if run.arm.kind != REAL:
        # Filters want those of the annotated images alone; all others would be gigabytes.
        shutil.rmtree(place, ignore_errors=True)
    return content


def further_images(bench: Bench, run: Run, real: Sequence[Sample]) -> list[Sample]:
    """What the run's arm trains on beside the ``real`` images of its subset.

    The label map to learn from is ``Sample.trusted`` throughout, of class numbers, 255 for none.

    Raises:
        InputError: a set is not there, or damaged.
    """
    arm = run.arm
    if not arm.source:
        return []
    subset = bench.plan.subset_of(run)
    folder = bench.folder.set(subset, arm.source)
    found = [each for each in read_set(folder, real) if each.round <= arm.rounds]
    if arm.kind == "trust":
        return found
    if arm.kind == "trust-random":
        return _with_moved_doubts(found, bench.folder.set(subset, arm.key), bench.classes)
    plain = [replace(each, trusted=each.masks[0][1]) for each in found]
    if arm.kind in ("fidelity", "fidelity-random"):
        names = _kept(bench, run, plain)
        return [each for each in plain if each.name in names]
    return plain


def _kept(bench: Bench, run: Run, made: Sequence[Sample]) -> set[str]:
    """The names of the images that a filter leaves, of as many as `Bench.keep` says.

    ``fidelity``: those that the network which knows the subset's annotated images alone, of the same seed, fits best.
    """
    count = max(1, int(bench.keep * len(made) + 0.5))
    if run.arm.kind == "fidelity-random":
        return set(random_order([each.name for each in made], run.id)[:count])
    own = replace(run, arm=Arm(REAL, 0))
    score = bench.folder.score(own, bench.plan.digest())
    model = None if score is None else bench.folder.run(own) / score["model"]
    if model is None or not model.exists():
        raise InputError(f"{run.id}: the network of {own.id} that filters for it is not there; run the command again")
    values: dict[str, list[float]] = {each.name: [] for each in made}
    # Judged against the label map that it was made for.
    plain = [replace(each, trusted=None) for each in made]
    for field in bench.segmenter.judge(model, plain, bench.classes, bench.plan.settings["training"]):
        values[field.sample].append(1.0 if field.dice is None else field.dice)
    means = {name: float(np.mean(each)) for name, each in values.items()}
    return set(sorted(means, key=lambda name: (-means[name], name))[:count])


def _with_moved_doubts(made: Sequence[Sample], folder: Path, classes: ClassMap) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for each in made:
        digest = hashlib.sha256(each.name.encode("utf-8", "surrogateescape")).hexdigest()
        path = folder / f"{digest[:16]}.png"
        if not path.exists():
            maps = [load_trusted(replace(each, trusted=which), classes) for which in (each.trusted, each.masks[0][1])]
            trusted, plain = (np.where(labels == len(classes), IGNORED, labels).astype(np.uint8) for labels in maps)
            moved = move_doubts(trusted, plain, np.random.default_rng(int(digest[:16], 16)))
            with replacing(path) as (partial,):
                partial.write_bytes(encode_png(moved))
        found.append(replace(each, trusted=path))
    return found


def digest_of_images(samples: Sequence[Sample]) -> str:
    """SHA-256 of all images and of the label maps that are learnt from, in their order."""
    digest = hashlib.sha256()
    for each in samples:
        for path in (each.image, each.trusted or each.masks[0][1]):
            digest.update(file_sha256(path).encode())
    return digest.hexdigest()


def waiting(plan: Plan, folder: Folder, runs: Sequence[Run]) -> Iterator[Run]:
    """Those of ``runs`` that are not over."""
    digest = plan.digest()
    return (run for run in runs if folder.score(run, digest) is None)
