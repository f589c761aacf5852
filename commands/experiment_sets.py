"""The further images of an experiment's arms: in-silico ones by the code of `dataset`, copies and collages."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import model
from commands import dataset
from commands.dataset_job import Job, open_job
from commands.experiment_requests import ExperimentRequest
from commands.experiment_setup import names_path, read_method
from commands.kernel_choice import choose_impl
from commands.loras import read_loras
from commands.machine import choose_device, choose_dtype
from commands.recommended import read_recommended
from commands.requests import DatasetRequest
from dataset import folder as dataset_folder
from dataset.inspection import inspect
from dataset.layouts import read_source
from dataset.pairs import named, read_names
from dataset.plan import MULTIPLE, make_plan
from dataset.shares import Share
from evaluation.experiment.arms import METHOD_SETS, SetName
from evaluation.experiment.further import MANIFEST, Recipe, make_collages, make_copies
from evaluation.experiment.runner import Bench
from evaluation.experiment.subsets import Subset
from imaging.images import crop, pad_to_multiple
from imaging.rawfile import shown
from sampler.inputs import to_unit_range
from sampler.presets import PRESETS
from sampler.progress import Ticks
from sampler.series import decode

BASELINE = "alaluf"
SWITCHED_OFF: dict[SetName, dict[str, Any]] = {
    "winter": {},
    "no-swap": {"cross_attn_64": None, "cross_attn_32": None},
    "no-adain": {"adain": "none"},
}
"""Settings of the method by which its arms differ."""


@dataclass(frozen=True)
class Wanted:
    """One set of further images, of one subset."""

    subset: Subset
    name: SetName

    @property
    def key(self) -> str:
        """What it is claimed and recorded by."""
        return f"set-{self.subset.key}-{self.name}"


def method_request(request: ExperimentRequest, bench: Bench, wanted: Wanted, device: str) -> DatasetRequest:
    """What `dataset` would be asked for this set.

    The baseline takes what the weights recommend and the user gives, but for what makes it the baseline.
    """
    asked = read_method(request.method)
    overrides = dict(asked.overrides)
    preset = None
    if wanted.name == BASELINE:
        preset = BASELINE
        one, other = (vars(PRESETS[name]) for name in (BASELINE, "winter"))
        own = {name for name in one if one[name] != other[name]}
        recommended = read_recommended(Path(os.path.expanduser(request.weights)))
        overrides = {name: value for name, value in {**recommended, **overrides}.items() if name not in own}
    else:
        overrides |= SWITCHED_OFF[wanted.name]
    source = request.input if request.input is not None else bench.folder.root / "work" / "world" / "annotated"
    return DatasetRequest(
        input=source,
        output=bench.folder.set(wanted.subset, wanted.name),
        only=names_path(bench.folder, wanted.subset.key),
        split=_split(source, bench, wanted.subset),
        classes=str(bench.classes),
        rounds=bench.plan.rounds,
        seed=request.seed,
        weights=request.weights,
        lora=request.lora,
        dtype=request.dtype,
        device=device,
        threads=request.threads,
        preset=preset,
        overrides=overrides,
        ray=request.ray,
        **asked.machine,
    )


def _split(source: Path, bench: Bench, subset: Subset) -> str | None:
    """The split that the subset's images have in the input itself, which may name it otherwise than the plan."""
    names = {each.name for each in bench.training_images(subset)}
    found = {pair.split for pair in read_source(source).pairs if pair.name in names}
    return next(iter(found)) or None


def recipes(request: ExperimentRequest, bench: Bench, subset: Subset) -> Generator[Any, None, list[Recipe]]:
    """What the in-silico images of a subset are made of, round for round, as `dataset` plans it."""
    source = request.input if request.input is not None else bench.folder.root / "work" / "world" / "annotated"
    names = names_path(bench.folder, subset.key)
    pairs = named(read_source(source).pairs, read_names(names), names)
    found = yield from Ticks("read", 2 * len(pairs)).during(inspect(shown(source), pairs, [], None, bench.classes))
    plan = make_plan(found, {}, rounds=bench.plan.rounds, variants=1, seed=request.seed, batch=1)
    return [
        Recipe(item.round, plan.sources[item.origin].pair.name, plan.sources[item.target].pair.name, item.dihedral)
        for item in plan.items
    ]


def is_made(bench: Bench, wanted: Wanted) -> bool:
    """Whether a set is there."""
    folder = bench.folder.set(wanted.subset, wanted.name)
    if wanted.name in METHOD_SETS:
        return (folder / MANIFEST).exists() and (folder / dataset_folder.WORK / "finished").exists()
    return (folder / MANIFEST).exists()


def is_free(bench: Bench, wanted: Wanted) -> bool:
    """Whether there is something to do for a set that nobody does: of one that the method makes, any unit."""
    if wanted.name not in METHOD_SETS:
        return True
    folder = dataset_folder.Folder(bench.folder.set(wanted.subset, wanted.name))
    if not (folder.work / "plan.json").exists():
        return True
    plan = folder.plan()
    left = [] if plan is None else [each for each in plan.units if not all(map(folder.is_done, each.items))]
    for unit in left:
        with folder.claimed(unit) as mine:
            if mine:
                return True
    return not left


def make_set(request: ExperimentRequest, bench: Bench, wanted: Wanted, share: Share) -> Iterator[Any]:
    """Make a set, or as much of it as others do not; yields what `dataset` does. Raises InputError."""
    device = device_for(request.device, share)
    if wanted.name in METHOD_SETS:
        asked = method_request(request, bench, wanted, device)
        job = yield from open_job(asked, Share(0, 1, share.local, share.neighbours, share.engine))
        yield from dataset.make(job)
        return
    with bench.folder.claimed(wanted.key) as mine:
        if not mine or is_made(bench, wanted):
            return
        folder = bench.folder.set(wanted.subset, wanted.name)
        real = bench.training_images(wanted.subset)
        todo = yield from recipes(request, bench, wanted.subset)
        if wanted.name == "collage":
            work = make_collages(folder, todo, real, bench.classes, request.seed)
        else:
            change = round_trip(request, device) if wanted.name == "vae" else None
            work = make_copies(folder, todo, real, bench.classes, change)
        yield from Ticks("decode" if wanted.name == "vae" else "read", len(todo)).during(work)


def device_for(device: str, share: Share) -> str:
    """The device of one of several processes on a machine."""
    if device in ("auto", "cuda") and share.count > 1 and torch.cuda.is_available():
        return f"cuda:{share.local % torch.cuda.device_count()}"
    return device


def round_trip(request: ExperimentRequest, device: str) -> Any:
    """What makes of an image [H, W, 3] what the autoencoder gives back of it."""
    place = choose_device(device)
    if place.type == "cpu":
        torch.set_num_threads(request.threads)
    dtype = choose_dtype(request.dtype, place)
    impl, _ = choose_impl("auto", place, dtype)
    loras = [each.lora for each in read_loras(request.lora)]
    loaded = model.load(request.weights, dtype=dtype, device=place, loras=loras)
    loaded.prepack()

    def change(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            pixels = to_unit_range(pad_to_multiple(image, MULTIPLE)).to(place, dtype)
            latents = loaded.vae.encode(pixels, impl=impl).float()
            return crop(decode(loaded, latents, impl), image.shape[0], image.shape[1])

    return change


def trial(request: ExperimentRequest, bench: Bench, wanted: Wanted, share: Share) -> Generator[Any, None, Job]:
    """The job of a set, its images planned and none made, to be timed."""
    asked = replace(method_request(request, bench, wanted, device_for(request.device, share)), plan=True)
    job: Job = yield from open_job(asked, share)
    return job
