"""Training a segmentation model in a folder: what is read, checked and kept; it goes on where it was interrupted.

``work/`` in the folder is for going on and goes away at the end; then weights, history and record appear together.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from evaluation.samples import Sample
from evaluation.segmentation.augmentation import Augmentation
from evaluation.segmentation.claim import IDENTITY, claimed
from evaluation.segmentation.course import (
    BEST,
    LAST,
    Course,
    Step,
    Validated,
    course_of,
    is_over,
    read_checkpoint,
)
from evaluation.segmentation.data import Images, Windows, read_all
from evaluation.segmentation.fitting import Feed, Segmenter, Stopped, fit
from evaluation.segmentation.leakage import Known, known, leaks
from evaluation.segmentation.mixture import Mixture
from evaluation.segmentation.network import build, read_weights, save_weights
from evaluation.segmentation.record import HISTORY, MODEL, RECORD, Record, identity, read_record, write_record
from evaluation.segmentation.settings import TrainingSettings, weights_digest
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.output import replacing
from imaging.provenance import file_sha256

LIBRARIES = ("torch", "torchvision", "segmentation-models-pytorch", "timm", "lightning")


@dataclass(frozen=True)
class Reading:
    """``done`` of ``total`` images are looked at."""

    done: int
    total: int


@dataclass(frozen=True)
class Remark:
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class Trained:
    """The model is there."""

    record: Record


Event = Reading | Remark | Step | Validated | Trained


def train(
    real: Sequence[Sample],
    synthetic: Sequence[Sample],
    validation: Sequence[Sample],
    classes: ClassMap,
    settings: TrainingSettings,
    folder: Path,
) -> Iterator[Event]:
    """Train a model of ``classes`` in ``folder``, or go on with it, and at last `Trained`.

    The same seed gives the same bytes on one type of machine, with as many threads and devices and the same libraries.

    Raises:
        InputError: settings, images or the folder cannot be used; numbers are not finite.
        ProblemsError: images cannot be read, or what is validated on is known in training: all of these.
    """
    settings.check()
    if len(classes) < 2:
        raise InputError("there is one class alone, so nothing to learn; give `classes`")
    if not validation:
        raise InputError("`validation`: there are no images to validate on; give some")
    if len(validation) < settings.devices:
        raise InputError(f"`devices` {settings.devices}: more than the {len(validation)} images to validate on")
    device = _device(settings)
    parts = {"real": real, "synthetic": synthetic, "validation": validation}
    remembered = yield from _checked(parts, str(folder))
    training = [*remembered["real"], *remembered["synthetic"]]
    held_out = remembered["validation"]
    asked = identity(settings, classes, device.type, remembered)
    with claimed(folder, asked) as work:
        if (folder / RECORD).exists():
            yield Trained(read_record(folder))
            return
        course = course_of(read_checkpoint(work / LAST)) if (work / LAST).exists() else None
        if course is not None:
            yield Remark(f"going on with {folder} after step {course.history[-1].step}")
        feed, remarks = yield from _feed(parts, classes, settings, str(folder))
        yield from remarks
        if course is None or not is_over(course, settings):
            network = build(settings.encoder, settings.encoder_weights, len(classes), settings.seed)
            if settings.encoder_weights is None:
                yield Remark(f"{settings.encoder} starts from random numbers: no `encoder_weights` are given")
            yield from _watched(Segmenter(network, len(classes), settings), feed, device, work)
            course = course_of(read_checkpoint(work / LAST))
        splits = sorted({each.split for each in real if each.split})
        content = {
            "classes": str(classes),
            "settings": asdict(settings),
            "encoder_weights_sha256": weights_digest(settings.encoder_weights),
            "device_type": device.type,
            "threads": torch.get_num_threads(),
            "libraries": {name: version(name) for name in LIBRARIES},
            **{name: len(kept) for name, kept in zip(parts, (*feed.windows.images, feed.validation), strict=True)},
            "split": ", ".join(splits),
            "steps": course.history[-1].step,
            "best_step": course.best.step,
            "dice": course.best.dice,
            "stopped_by": is_over(course, settings),
        }
        _finish(folder, work, course, content, training, held_out)
        yield Trained(read_record(folder))


def _checked(parts: dict[str, Sequence[Sample]], where: str) -> Generator[Event, None, dict[str, list[Known]]]:
    """What is remembered of each sample, if none tells of what is validated on."""
    total, done = sum(map(len, parts.values())), 0
    remembered: dict[str, list[Known]] = {}
    problems = []
    for name, samples in parts.items():
        remembered[name] = []
        for sample in samples:
            try:
                remembered[name].append(known(sample))
            except InputError as error:
                problems.append(str(error))
            done += 1
            yield Reading(done, 2 * total)
    problems += leaks([*remembered["real"], *remembered["synthetic"]], remembered["validation"], "validation")
    if problems:
        raise ProblemsError(where, problems)
    return remembered


def _feed(
    parts: dict[str, Sequence[Sample]], classes: ClassMap, settings: TrainingSettings, where: str
) -> Generator[Event, None, tuple[Feed, list[Remark]]]:
    """Everything that is trained and validated on, read once."""
    total, done = sum(map(len, parts.values())), 0
    room = settings.cache * 1e9
    kept: dict[str, Images] = {}
    remarks = []
    for name, samples in parts.items():
        images = Images(samples, classes, settings.trusted, room)
        reading = read_all(images, where)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                usable: list[int] = end.value
                break
            done += 1
            yield Reading(total + done, 2 * total)
        if len(usable) < len(samples):
            remarks.append(Remark(f"{len(samples) - len(usable)} in-silico images are doubtful all over and left out"))
        room = images.room
        kept[name] = images.only(usable)
    mixture = Mixture(len(kept["real"]), len(kept["synthetic"]), settings.real_share, settings.seed)
    augmentation = Augmentation(settings.size, len(classes)) if settings.augment else None
    windows = Windows(kept["real"], kept["synthetic"], mixture, settings.size, settings.seed, augmentation)
    remarks.append(
        Remark(
            f"{len(kept['real'])} real and {len(kept['synthetic'])} in-silico images, {100 * mixture.share:.3g} % of "
            f"the windows real; {len(kept['validation'])} images to validate on"
        )
    )
    return Feed(windows, kept["validation"], settings), remarks


@dataclass
class _Watch:
    """What a training in a thread, or in other processes, tells."""

    events: Any
    asked: Any

    @classmethod
    def of(cls, processes: int) -> _Watch:
        """For a training in this process, or in several others."""
        if processes == 1:
            return cls(queue.SimpleQueue(), threading.Event())
        context = torch.multiprocessing.get_context("spawn")
        return cls(context.Queue(), context.Event())

    def put(self, event: Step | Validated) -> None:
        """Tell an event."""
        self.events.put(event)

    def stopped(self) -> bool:
        """Whether the training shall stop."""
        return bool(self.asked.is_set())


@dataclass
class _Work:
    """A training in a thread, and how it ended."""

    errors: list[BaseException] = field(default_factory=list)

    def run(self, *arguments: Any) -> None:
        """As `fit`."""
        try:
            fit(*arguments)
        except Stopped:
            pass
        except BaseException as error:
            self.errors.append(error)


def _watched(segmenter: Segmenter, feed: Feed, device: torch.device, folder: Path) -> Iterator[Event]:
    """Train, and yield what is told of it. Whoever stops listening, by an interrupt too, stops the training."""
    watch, work = _Watch.of(segmenter.settings.devices), _Work()
    thread = threading.Thread(target=work.run, args=(segmenter, feed, device, folder, watch), daemon=True)
    thread.start()
    try:
        while True:
            alive = thread.is_alive()
            try:
                yield watch.events.get(timeout=0.2)
            except queue.Empty:
                if not alive:
                    break
    finally:
        watch.asked.set()
        thread.join()
    for error in work.errors:
        raise error


def _finish(
    folder: Path,
    work: Path,
    course: Course,
    content: dict[str, Any],
    training: Sequence[Known],
    held_out: Sequence[Known],
) -> None:
    """Write the model and what it says of itself, together."""
    lines = [f"{each.step},{each.loss:.6f},{each.dice:.6f},{int(each.best)}" for each in course.history]
    weights = read_weights(work / BEST)
    paths = (folder / IDENTITY, folder / MODEL, folder / HISTORY, folder / RECORD)
    with replacing(*paths) as (asked, model, history, record):
        shutil.copyfile(work / IDENTITY, asked)
        save_weights(model, weights)
        history.write_text("\n".join(["step,loss,dice,best", *lines]) + "\n", encoding="utf-8")
        write_record(record, {**content, "model_sha256": file_sha256(model)}, training, held_out)


def _device(settings: TrainingSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise InputError(f"`device` {brief(settings.device)}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"`device` {brief(settings.device)}: not here; give auto or cpu")
    return device
