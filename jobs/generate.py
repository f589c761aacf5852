"""`generate`: from files to files. What can be wrong with the inputs is found before any network runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

import model
from jobs import VERSION
from jobs.options import as_arguments
from jobs.resources import (
    check_graphs,
    check_memory,
    choose_batch,
    choose_budget,
    choose_device,
    choose_dtype,
    choose_impl,
    read_batch_size,
)
from model.errors import InputError
from patches.images import crop, pad_to_multiple, read_image, write_png
from patches.labels import ClassMap, LabelSet, check_same_size, read_label_set
from patches.output import Output, check_output_file, plan_outputs, replacing
from patches.panel import panel
from patches.record import Record, Value, file_sha256
from sampler.execution import Execution
from sampler.generate import Progress, Result, Task, generate_series
from sampler.patch import Patch
from sampler.settings import Settings, choose, read_recommended

MULTIPLE = 64


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
    for name, value in (("--variants", request.variants - 1), ("--seed", request.seed)):
        if value < 0:
            raise InputError(f"{name}: must be {'1' if name == '--variants' else '0'} or more")
    if request.seed + request.variants > 2**63:
        raise InputError(f"--seed {request.seed}: too large")
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
    latent_files = _plan_latents(request.save_latents, planned, inputs)
    yield from (Note(text) for text in (*notes, *labels.notes))

    loaded = model.load(request.weights, dtype=dtype, device=device)
    loaded.pack()
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
    patches = [Patch(origin, origin_labels, target, len(labels.classes)) for target in targets]
    for path, patch in zip(request.target_masks, patches, strict=True):
        yield from _warnings(patch, settings, labels, path, loaded.config.vae.factor)
    tasks = [Task(patches[item.target], request.seed + item.variant) for item in planned]
    if batch is None:
        sides = [(height, width) for height, width in (origin_labels.shape, *(target.shape for target in targets))]
        batch = choose_batch(loaded.config, sides, dtype, device)
    execution = Execution(impl=impl, elementwise=impl, batch=batch, budget=budget, graphs=request.graphs)
    for event in generate_series(loaded, tasks, settings, execution):
        if isinstance(event, Progress):
            yield event
            continue
        item, latents_path = planned[event.index], latent_files[event.index]
        seed, target = tasks[event.index].seed, labels.maps[1 + item.target]
        record = _record(request, settings, labels.classes, item, seed, digests, details)
        _write(event, image, labels, target, item, latents_path, record)
        yield Written(item.image, item.panel, latents_path)


def _settings(request: Request) -> tuple[Settings, list[str]]:
    """The settings, and a note on recommended ones: used where the user named neither preset nor option."""
    recommended = {}
    if request.preset is None:
        recommended = {k: v for k, v in read_recommended(Path(request.weights)).items() if k not in request.options}
    preset = "winter" if request.preset is None else request.preset
    settings = choose(preset, {**recommended, **request.options})
    if not recommended:
        return settings, []
    listing = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in recommended.items())
    return settings, [f"these weights recommend {listing} (--preset {preset} turns that off)"]


def _plan_latents(path: Path | None, planned: list[Output], inputs: tuple[Path, ...]) -> list[Path | None]:
    """A file for the latents of each image: ``path`` itself, or with the image's name added if there are several."""
    if path is None:
        return [None] * len(planned)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the name for --save-latents must end in .safetensors")
    check_output_file(path, inputs)
    if len(planned) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{item.image.stem}{path.suffix}") for item in planned]


def _warnings(patch: Patch, settings: Settings, labels: LabelSet, path: Path, factor: int) -> Iterator[Note]:
    """One note for each class of a target that AdaIN cannot match."""
    if settings.adain in ("global", "none"):
        return
    for label in patch.unmatched_classes(factor):
        yield Note(
            f"{path}: class {labels.classes.names[label]} covers fewer than 2 latent positions of the origin or of the "
            "target; its statistics are left as they are"
        )


def _record(
    request: Request,
    settings: Settings,
    classes: ClassMap,
    item: Output,
    seed: int,
    digests: Mapping[str, str],
    details: Mapping[str, Value],
) -> Record:
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
    return Record(VERSION, "generate", arguments, digests, details)


def _write(
    result: Result,
    image: NDArray[np.uint8],
    labels: LabelSet,
    target: NDArray[np.int64],
    item: Output,
    latents_path: Path | None,
    record: Record,
) -> None:
    """Write the image last: where it is, its panel and latents are too."""
    pixels = crop(result.image, *target.shape)
    if latents_path is not None:
        save_latents(latents_path, result.latents)
    write_png(item.panel, panel(image, labels.maps[0], target, pixels, labels.classes.names), record.text())
    write_png(item.image, pixels, record.text())


def save_latents(path: Path, latents: Tensor) -> None:
    """Write ``latents`` [1, 4, h, w], float32, as tensor ``latents`` of a safetensors file, whole or not at all."""
    with replacing(path) as partial:
        safetensors.torch.save_file({"latents": latents.contiguous()}, partial)
