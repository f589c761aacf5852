"""A dataset's job: the folder, the plan, which one process makes and all others read, and what makes the images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import model
from commands import VERSION
from commands.kernel_choice import choose_impl
from commands.loras import GivenLora, read_loras
from commands.machine import (
    check_graphs,
    check_memory,
    choose_batch,
    choose_budget,
    choose_device,
    choose_dtype,
    pass_sides,
    read_batch_size,
)
from commands.method import method_settings
from commands.notes import Note
from commands.options import read_options, settings_record
from commands.requests import DatasetRequest
from commands.weights import weights_sha256
from dataset.calibration import Calibration, calibrate
from dataset.folder import Folder, Heartbeat
from dataset.inspection import Inspection, inspect
from dataset.layouts import read_masks, read_source
from dataset.making import Maker
from dataset.pairing import subset
from dataset.pairs import choose_split, named, read_names
from dataset.plan import Plan, make_plan, padded
from dataset.procedural import CLASSES, draw_dataset
from dataset.shares import Share
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.output import write_text
from imaging.rawfile import shown
from kernels import Implementation
from model import StableDiffusion
from sampler.execution import Execution
from sampler.prepare import Pipeline
from sampler.progress import Progress, Ticks
from sampler.settings import Settings


@dataclass(frozen=True)
class Machine:
    """What this process computes with."""

    device: torch.device
    dtype: torch.dtype
    impl: Implementation
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Everything that is needed to make a dataset's images."""

    request: DatasetRequest
    folder: Folder
    plan: Plan
    calibration: Calibration
    settings: Settings
    machine: Machine
    model: StableDiffusion
    share: Share

    def pipeline(self) -> Pipeline:
        """The networks under the run's texts."""
        budget = choose_budget(self.request.cache, self.machine.device, self.share.neighbours)
        execution = Execution(self.machine.impl, self.plan.batch, self.request.graphs, budget)
        with torch.inference_mode():
            return Pipeline.of(self.model, self.settings, execution)

    def maker(self, engine: str) -> Maker:
        """What makes units, for one process."""
        return Maker(
            self.pipeline(),
            self.plan,
            self.folder,
            VERSION,
            self.model.config.vae.factor,
            self.request.min_fidelity,
            self.calibration.copied_above,
            {"device_type": self.machine.device.type},
            Heartbeat(self.folder, engine),
        )


def open_job(request: DatasetRequest, share: Share) -> Generator[Note | Progress, None, Job]:
    """Check everything, plan if nobody has, load the weights. Raises InputError, SettingError or CheckpointError."""
    machine = _machine(request, share)
    settings, notes = method_settings(request)
    batch_size = read_batch_size(request.batch_size)
    yield from (Note(text) for text in (*notes, *machine.notes))
    folder = Folder(request.output)
    if (request.input is None) != request.demo:
        before = " before --lora, which takes all names that follow it" if request.lora else ""
        raise InputError(f"which images? give a folder or a manifest{before}, or --demo for a drawn dataset (not both)")
    loras = read_loras(request.lora)
    _check_apart(folder.root, request)
    content = {
        "method": settings_record(settings),
        "weights_sha256": weights_sha256(request.weights),
        **_content(loras),
        "dtype": str(machine.dtype).removeprefix("torch."),
        "impl": machine.impl,
    }
    asked = {
        **content,
        **{name: getattr(request, name) for name in ("rounds", "subset", "split", "seed", "variants", "classes")},
        **{name: getattr(request, name) for name in ("min_fidelity", "batch_size", "threads", "demo")},
        "only": None if request.only is None else _digest(read_names(request.only)),
        "weights": Path(request.weights).name,
        **({"lora_files": " ".join(given.short for given in loras)} if loras else {}),
        "device_type": machine.device.type,
        "program": "stainloom",
        "version": VERSION,
    }
    folder.create()
    with folder.locked("plan"):
        given = {"input": request.input, "masks": request.masks}
        folder.settle(asked, {name: None if path is None else os.path.realpath(path) for name, path in given.items()})
        plan = folder.plan()
        found = None if plan is not None else (yield from _inspected(request, folder))
        if found is not None:
            settings.class_intensities(len(found.classes))
            yield from (Note(text) for text in found.notes)
        loaded = _load(request, machine, loras)
        if plan is None:
            assert found is not None
            origins = {padded(each.candidate.shape) for each in found.images}
            targets = {padded(each.candidate.shape) for each in found.targets}
            for shape, window in [*((s, None) for s in origins), *((s, settings.window_for(s)) for s in targets)]:
                check_memory(loaded.config, shape, machine.dtype, machine.device, folder.root, share.neighbours, window)
            for shape in targets:
                settings.check_windows(shape)
            if any(settings.window_for(shape) for shape in targets):
                yield Note("some label maps are larger than a window: their images are made in windows (`window`)")
            sides = sorted(origins | {pass_sides(settings, shape) for shape in targets})
            batch = batch_size or choose_batch(loaded.config, sides, machine.dtype, machine.device)
            plan = make_plan(
                found, content, rounds=request.rounds, variants=request.variants, seed=request.seed, batch=batch
            )
            folder.write_plan(plan)
        calibration = yield from _calibration(folder, plan)
        if not request.plan:
            # From here on the folder is that of these settings.
            Heartbeat(folder, share.engine if request.ray is None else "sharing out by Ray").beat("")
    return Job(request, folder, plan, calibration, settings, machine, loaded, share)


def reopen_job(folder: Folder, plan: Plan, request: DatasetRequest) -> Generator[Note | Progress, None, Job]:
    """The job of a dataset that is there, as its settings say, with the ``request``'s weights if others are given.

    Raises InputError if the weights are not those of the dataset, or the device is of another type.
    """
    asked = folder.settings()
    method = asked.get("method")
    try:
        texts = {name.replace("-", "_"): value for name, value in dict(method or {}).items()}
        overrides = read_options(Settings, {name: text for name, text in texts.items() if isinstance(text, str)})
        flags = {name: value for name, value in texts.items() if isinstance(value, bool)}
        again = replace(
            request,
            preset="winter",
            overrides={**overrides, **flags},
            dtype=str(asked["dtype"]),
            impl=str(asked["impl"]),
            threads=int(asked["threads"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{shown(folder.root)}: its settings are damaged; run the dataset's command again") from error
    machine = _machine(again, Share())
    settings, _ = method_settings(again)
    if weights_sha256(again.weights) != asked.get("weights_sha256"):
        name = shown(str(asked.get("weights")))
        raise InputError(
            f"--weights {shown(again.weights)}: not those of the dataset, which are called {name}; give them"
        )
    if machine.device.type != asked.get("device_type"):
        raise InputError(
            f"--device: the dataset was made on {asked.get('device_type')}; only there it is the same to the byte"
        )
    loras = read_loras(again.lora)
    if _content(loras).get("lora") != asked.get("lora"):
        known = shown(str(asked.get("lora_files", "none")))
        raise InputError(f"--lora: the dataset was made with others ({known}); give these, with their weights")
    loaded = _load(again, machine, loras)
    calibration = yield from _calibration(folder, plan)
    return Job(again, folder, plan, calibration, settings, machine, loaded, Share())


def _load(request: DatasetRequest, machine: Machine, loras: Sequence[GivenLora]) -> StableDiffusion:
    files = [given.lora for given in loras]
    loaded = model.load(request.weights, dtype=machine.dtype, device=machine.device, loras=files)
    loaded.prepack()
    return loaded


def _content(loras: Sequence[GivenLora]) -> dict[str, str]:
    """What of them changes images; nothing without any, as datasets have it that are older."""
    return {"lora": " ".join(given.content for given in loras)} if loras else {}


def _machine(request: DatasetRequest, share: Share) -> Machine:
    device = choose_device(request.device)
    if device.type == "cuda" and request.device in ("auto", "cuda") and share.count > 1:
        device = torch.device("cuda", share.local % torch.cuda.device_count())
    if device.type == "cpu":
        torch.set_num_threads(request.threads)
    check_graphs(request.graphs, device)
    dtype = choose_dtype(request.dtype, device)
    impl, notes = choose_impl(request.impl, device, dtype)
    return Machine(device, dtype, impl, notes)


def _check_apart(root: Path, request: DatasetRequest) -> None:
    for path in (root, request.input, request.masks, request.only):
        if path is not None and "\0" in str(path):
            raise InputError(f"{shown(path)}: no possible path; check it")
    for given in (request.input, request.masks):
        if given is None:
            continue
        one, other = os.path.realpath(root), os.path.realpath(given)
        if one == other or one.startswith(other + os.sep) or other.startswith(one + os.sep):
            raise InputError(
                f"{shown(root)}: the new images must not lie among the inputs, nor these among them; choose another"
            )


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _inspected(request: DatasetRequest, folder: Folder) -> Generator[Note | Progress, None, Inspection]:
    classes = None if request.classes is None else ClassMap.parse(request.classes)
    path = draw_dataset(folder.work / "demo") if request.demo else request.input
    assert path is not None
    source = read_source(path)
    if classes is None:
        classes = ClassMap.parse(CLASSES) if request.demo else source.classes
    chosen, split = choose_split(source.pairs, request.split)
    others = [pair for pair in source.pairs if pair.split != split]
    if request.only is not None:
        chosen = named(chosen, read_names(request.only), request.only)
    chosen = [chosen[place] for place in subset([pair.name for pair in chosen], request.subset, request.seed)]
    masks = None if request.masks is None else read_masks(request.masks)
    total = 2 * len(chosen) + 2 * len(masks or ())
    return (yield from Ticks("read", total).during(inspect(shown(path), chosen, others, masks, classes)))


def _calibration(folder: Folder, plan: Plan) -> Generator[Note | Progress, None, Calibration]:
    path = folder.work / "calibration.json"
    if path.exists():
        try:
            return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__}); remove it and run again") from error
    made = yield from Ticks("calibrate", 0).during(calibrate(plan))
    write_text(path, json.dumps(made.as_json()))
    return made
