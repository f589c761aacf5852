"""`generate`: from files to files. What can be wrong with the inputs is found before any network runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import model
from commands import VERSION
from commands.machine import (
    check_graphs,
    check_memory,
    choose_batch,
    choose_budget,
    choose_device,
    choose_dtype,
    choose_impl,
    read_batch_size,
)
from commands.options import as_arguments
from commands.recommended import read_recommended
from commands.results import plan_latents, refuse_foreign, replaced, write_result
from imaging.errors import InputError
from imaging.fonts import fonts_for
from imaging.images import crop, pad_to_multiple, read_image
from imaging.labels import ClassMap, LabelSet, check_same_size, read_label_set
from imaging.output import Output, plan_outputs
from imaging.panel import panel
from imaging.provenance import Provenance, Value, file_sha256
from imaging.rawfile import shown
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.masks import vanishing_classes
from sampler.series import GenerationTask, Progress, generate_series
from sampler.settings import Settings, choose, in_proportion

MULTIPLE = 64
MOST_VARIANTS = 10_000


@dataclass(frozen=True)
class Request:
    """What the user asked of `generate`. ``options`` holds the method's fields given on the command line.

    ``preset`` None takes the ``winter`` preset and, over it, what the weights recommend.
    """

    origin: Path
    origin_mask: Path
    target_masks: tuple[Path, ...]
    classes: str | None
    output: Path
    save_latents: Path | None
    weights: str
    seed: int
    variants: int
    preset: str | None
    options: Mapping[str, Any]
    device: str
    dtype: str
    impl: str
    batch_size: str = "auto"
    keep: str = "auto"
    graphs: bool = False


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class Written:
    """One finished image: its files, whole and under their final names."""

    image: Path
    panel: Path
    latents: Path | None


def run(request: Request) -> Iterator[Note | Progress | Written]:
    """Make every image asked for, in batches. Raises InputError, before the first, for bad input."""
    if not 1 <= request.variants <= MOST_VARIANTS:
        raise InputError(f"--variants {request.variants}: must be from 1 to {MOST_VARIANTS}")
    if not 0 <= request.seed <= 2**63 - request.variants:
        raise InputError(f"--seed {request.seed}: must be 0 or more, and below 2**63 for every variant")
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    impl = choose_impl(request.impl, device)
    check_graphs(request.graphs, device)
    settings, notes = _settings(request)
    batch, budget = read_batch_size(request.batch_size), choose_budget(request.keep, device)

    image = read_image(request.origin)
    masks = (request.origin_mask, *request.target_masks)
    labels = read_label_set(masks, None if request.classes is None else ClassMap.parse(request.classes))
    check_same_size(labels.maps[0], request.origin_mask, image, request.origin)
    settings.greys(len(labels.classes))
    inputs = (request.origin, *masks)
    planned = plan_outputs(request.output, request.target_masks, request.variants, inputs)
    weights = os.path.expanduser(request.weights)
    latent_files = plan_latents(request.save_latents, planned, (*inputs, weights), weights)
    refuse_foreign(planned, weights)
    yield from (Note(text) for text in (*notes, *labels.notes))
    fonts = fonts_for(labels.classes.names)
    for index, name in enumerate(labels.classes.names):
        if fonts[index] is None:
            fix = "install one that has it, such as Noto"
            yield Note(f"no font here can draw the name {name}: the panel's legend says class {index}; {fix}")

    loaded = model.load(request.weights, dtype=dtype, device=device)
    loaded.prepack()
    for path, shape in zip(masks, (m.shape for m in labels.maps), strict=True):
        check_memory(loaded.config, shape, dtype, device, path)
    details: dict[str, Value] = {
        "weights": loaded.name,
        "classes": len(labels.classes),
        "device": str(device),
        "torch": torch.__version__,
    }
    digests = {str(path): file_sha256(path) for path in dict.fromkeys(inputs)}

    origin, origin_labels = pad_to_multiple(image, MULTIPLE), pad_to_multiple(labels.maps[0], MULTIPLE)
    targets = [pad_to_multiple(target, MULTIPLE) for target in labels.maps[1:]]
    patches = [TransferInputs(origin, origin_labels, target, len(labels.classes)) for target in targets]
    factor = loaded.config.vae.factor
    for path, whole, padded in zip(masks, labels.maps, (origin_labels, *targets), strict=True):
        for label in vanishing_classes(torch.from_numpy(padded), len(labels.classes), factor):
            effect = "it lends nothing" if whole is labels.maps[0] else "it vanishes and the image will not show it"
            yield _vanished(path, labels.classes.names[label], int((whole == label).sum()), factor, effect)
    for path, patch in zip(request.target_masks, patches, strict=True):
        yield from _warnings(patch, settings, labels, path, factor)
    tasks = [GenerationTask(patches[item.target], request.seed + item.variant) for item in planned]
    if batch is None:
        sides = [(height, width) for height, width in (origin_labels.shape, *(target.shape for target in targets))]
        batch = choose_batch(loaded.config, sides, dtype, device)
    records = [
        _record(request, settings, labels.classes, item, task.seed, digests, {**details, "latents": _text(path)})
        for item, task, path in zip(planned, tasks, latent_files, strict=True)
    ]
    for item, record in zip(planned, records, strict=True):
        yield from (Note(text) for text in replaced(item.image, record))
    execution = Execution(impl=impl, elementwise=impl, batch=batch, budget=budget, graphs=request.graphs)
    for event in generate_series(loaded, tasks, settings, execution):
        if isinstance(event, Progress):
            yield event
            continue
        item, latents_path = planned[event.index], latent_files[event.index]
        target = labels.maps[1 + item.target]
        pixels = crop(event.image, *target.shape)
        sheet = panel(image, labels.maps[0], target, pixels, labels.classes.names, fonts)
        write_result(item, latents_path, pixels, sheet, event.latents, records[event.index])
        yield Written(item.image, item.panel, latents_path)


def _settings(request: Request) -> tuple[Settings, list[str]]:
    """The settings, and notes on those that the user did not give.

    Recommended ones are used where the user named no preset; with another number of steps, what counts steps changes
    in proportion.
    """
    preset = "winter" if request.preset is None else request.preset
    base = choose(preset, {})
    recommended = read_recommended(Path(os.path.expanduser(request.weights))) if request.preset is None else {}
    wanted = {name: value for name, value in recommended.items() if name not in request.options}
    notes = []
    if wanted:
        notes.append(f"these weights recommend {_listing(wanted)} (--preset {preset} turns that off)")
    base = replace(base, **in_proportion(base, recommended), **recommended)
    scaled = in_proportion(base, request.options)
    if scaled:
        listing = _listing(scaled)
        notes.append(f"--steps {request.options['steps']}: in proportion {listing}; give an option to say otherwise")
    settings = replace(base, **{**scaled, **request.options})
    settings.check()
    return settings, notes


def _listing(values: Mapping[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def _vanished(path: Path, name: str, pixels: int, factor: int, effect: str) -> Note:
    return Note(
        f"{_class(name)} covers {pixels} px of {shown(path)}, less than one latent position ({factor}×{factor} px) "
        f"anywhere: {effect}"
    )


def _class(name: str) -> str:
    """A class for a note; those that the user did not name have names like ``class 0``."""
    return name if name.startswith("class ") else f"class {name}"


def _warnings(patch: TransferInputs, settings: Settings, labels: LabelSet, path: Path, factor: int) -> Iterator[Note]:
    """One note for each class of a target that AdaIN cannot match."""
    if settings.adain in ("global", "none"):
        return
    for label in patch.unmatched_classes(factor):
        name = _class(labels.classes.names[label])
        yield Note(
            f"{shown(path)}: {name} covers fewer than 2 latent positions of the origin or of the target; its "
            "statistics are left as they are"
        )


def _record(
    request: Request,
    settings: Settings,
    classes: ClassMap,
    item: Output,
    seed: int,
    digests: Mapping[str, str],
    details: Mapping[str, Value],
) -> Provenance:
    """All that makes this one image again."""
    arguments: dict[str, Value] = {
        "origin": os.fspath(request.origin),
        "origin-mask": os.fspath(request.origin_mask),
        "target-mask": os.fspath(request.target_masks[item.target]),
        "classes": str(classes),
        "weights": request.weights,
        "seed": seed,
        "preset": "winter" if request.preset is None else request.preset,
        **as_arguments(settings),
        "device": request.device,
        "dtype": request.dtype,
        "impl": request.impl,
        "output": os.fspath(item.image),
    }
    return Provenance(VERSION, "generate", arguments, digests, details)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
