"""`generate`: from files to files. What can be wrong with the inputs is found before any network runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import model
from commands import VERSION
from commands.foreground import check_foreground, mask_images, noted, pixel_masks, plan_masks, recorded
from commands.kernel_choice import choose_impl
from commands.loras import read_loras
from commands.machine import (
    check_graphs,
    check_memory,
    choose_batch,
    choose_budget,
    choose_device,
    choose_dtype,
    pass_sides,
    read_batch_size,
    whole_sides,
)
from commands.method import method_settings
from commands.notes import Note, notes_on_classes, notes_on_fonts, notes_on_windows
from commands.options import settings_record
from commands.places import EXAMPLE_CLASSES, SMALL
from commands.requests import GenerateRequest
from commands.results import LATENTS, MASKS, plan_latents, refuse_foreign, replaced, write_result
from commands.unfinished import Unfinished
from commands.weights import weights_sha256
from imaging.errors import InputError
from imaging.fonts import fonts_for
from imaging.images import crop, pad_to_multiple, read_image
from imaging.labels import ClassMap, check_same_size, read_label_set
from imaging.output import Output, plan_outputs
from imaging.panel import panel
from imaging.provenance import Provenance, Value, file_sha256
from imaging.rawfile import shown
from imaging.windows import preview_factor, read_resolution, smaller
from sampler.errors import SettingError
from sampler.execution import Execution
from sampler.inputs import OriginImage, TransferInputs
from sampler.option import check_options
from sampler.progress import Progress
from sampler.series import generate_series
from sampler.settings import MULTIPLE, Settings
from sampler.tasks import GenerationTask

MOST_ORIGINS = 32
"""Attention looks at all of them in every step."""


@dataclass(frozen=True)
class Written:
    """One finished image: its files, whole and under their final names."""

    image: Path
    panel: Path
    latents: Path | None
    masks: Sequence[Path] = ()


def run(request: GenerateRequest) -> Iterator[Note | Progress | Written]:
    """Make every image asked for, in batches. Raises InputError or SettingError, before the first, for bad input."""
    check_options(request)
    if request.seed > 2**63 - request.variants:
        raise SettingError("seed", request.seed, "must be below 2**63 for every variant")
    request = with_example(request)
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    impl, impl_notes = choose_impl(request.impl, device, dtype)
    check_graphs(request.graphs, device)
    settings, notes = method_settings(request)
    batch, budget = read_batch_size(request.batch_size), choose_budget(request.cache, device)

    check_files(request)
    check_foreground(request, settings)
    masks, given = (*request.origin_mask, *request.target_mask), len(request.origin_mask)
    images = [read_image(path) for path in request.origin]
    labels = read_label_set(masks, None if request.classes is None else ClassMap.parse(request.classes))
    origin_maps, target_maps = labels.maps[:given], labels.maps[given:]
    if given:  # one for each image, as `check_files` has seen to
        for each, mask, image, path in zip(origin_maps, request.origin_mask, images, request.origin, strict=True):
            check_same_size(each, mask, image, path)
    settings.class_intensities(len(labels.classes))
    loras = read_loras(request.lora)
    inputs = (*request.origin, *masks, *(each.lora.file for each in loras))
    padded_maps = [pad_to_multiple(each, MULTIPLE) for each in origin_maps]
    origins = [
        OriginImage(pad_to_multiple(image, MULTIPLE), padded_maps[number] if padded_maps else None)
        for number, image in enumerate(images)
    ]
    targets = [pad_to_multiple(target, MULTIPLE) for target in target_maps]
    for target in targets:
        settings.check_windows(target.shape, finds_foreground=not given)
    fields = {number for number, target in enumerate(targets) if settings.window_for(target.shape) is not None}
    planned = plan_outputs(request.output, request.target_mask, request.variants, inputs, fields)
    weights = os.path.expanduser(request.weights)
    latent_files = plan_latents(request.save_latents, planned, (*inputs, weights), weights)
    mask_files = plan_masks(request.save_masks, planned, (*inputs, weights))
    refuse_foreign(planned, weights)
    yield from (Note(text) for text in (*notes, *impl_notes, *labels.notes))
    fonts = fonts_for(labels.classes.names)
    yield from notes_on_fonts(labels.classes.names, fonts)

    loaded = model.load(request.weights, dtype=dtype, device=device, loras=[each.lora for each in loras])
    loaded.prepack()
    for path, origin in zip(request.origin, origins, strict=True):
        check_memory(loaded.config, origin.image.shape[:2], dtype, device, path)
    for path, target in zip(request.target_mask, targets, strict=True):
        check_memory(loaded.config, target.shape, dtype, device, path, window=settings.window_for(target.shape))
    details: dict[str, Value] = {
        "weights": loaded.name,
        "classes": len(labels.classes),
        "device": str(device),
        "torch": torch.__version__,
    }
    digests = {str(path): file_sha256(path) for path in dict.fromkeys(inputs)}

    first, further = origins[0], tuple(origins[1:])
    pairs = [TransferInputs(first.image, first.labels, target, len(labels.classes), further) for target in targets]
    factor = loaded.config.vae.factor
    padded = [*padded_maps, *targets]
    yield from notes_on_classes(labels, padded, pairs, masks, settings, factor)
    yield from notes_on_windows(targets, request.target_mask, settings, factor)
    tasks = [GenerationTask(pairs[item.target], request.seed + item.variant) for item in planned]
    if batch is None:
        sides = [pass_sides(settings, target.shape) for target in targets]
        whole = [whole_sides(each.image.shape[:2]) for each in origins]
        batch = choose_batch(loaded.config, [*whole, *sides], dtype, device)
    records = [
        _record(
            request,
            replace(settings, window=settings.window_for(targets[item.target].shape) or settings.window),
            labels.classes,
            item,
            task.seed,
            digests,
            {**details, LATENTS: _text(path), MASKS: [*map(os.fspath, files)]},
        )
        for item, task, path, files in zip(planned, tasks, latent_files, mask_files, strict=True)
    ]
    for item, record in zip(planned, records, strict=True):
        yield from (Note(text) for text in replaced(item.image, record))
    execution = Execution(impl=impl, batch=batch, budget=budget, graphs=request.graphs)
    noted_already = False
    with contextlib.ExitStack() as stack:
        known = weights_sha256(request.weights) if fields else ""
        unfinished = {
            index: stack.enter_context(Unfinished(item.image, records[index], known))
            for index, item in enumerate(planned)
            if item.target in fields
        }
        for index, place in unfinished.items():
            tasks[index] = replace(tasks[index], reached=place.found())
            if tasks[index].reached is not None:
                yield Note(f"{planned[index].image}: goes on where an earlier run ended, by {shown(place.path)}")
        for event in generate_series(loaded, tasks, settings, execution):
            if isinstance(event, Progress):
                if event.reached is not None:
                    unfinished[event.index].reached(event.reached)
                yield event
                continue
            item, latents_path = planned[event.index], latent_files[event.index]
            target, found = target_maps[item.target], event.found
            if found is not None and not noted_already:
                for note in noted(found, item.image):
                    noted_already = True
                    yield note
            pixels = crop(event.image, *target.shape)
            foregrounds = pixel_masks(found, factor, images[0].shape[:2], target.shape)
            less = preview_factor(*target.shape)
            sheet = panel(
                [smaller(image, less) for image in images],
                [smaller(each, less) for each in origin_maps],
                smaller(target, less),
                smaller(pixels, less),
                labels.classes.names,
                fonts,
                None if foregrounds is None else (smaller(foregrounds[0], less), smaller(foregrounds[1], less)),
            )
            record, pictures = recorded(records[event.index], found), mask_images(mask_files[event.index], foregrounds)
            resolution = read_resolution(request.target_mask[item.target])
            write_result(item, latents_path, pixels, sheet, event.latents, record, resolution, pictures)
            if event.index in unfinished:
                unfinished[event.index].remove()
            yield Written(item.image, item.panel, latents_path, mask_files[event.index])


def check_files(request: GenerateRequest) -> None:
    """Raise InputError where files are missing, or several origins have not a mask each."""
    without = not request.origin_mask and request.preset == "alaluf"
    if not request.origin or not request.target_mask or not (request.origin_mask or without):
        raise InputError(
            "--origin, --origin-mask and --target-mask belong together: give all three, or none; only --preset alaluf "
            "does without --origin-mask"
        )
    if len(request.origin) > MOST_ORIGINS:
        raise InputError(f"--origin names {len(request.origin)} images; give at most {MOST_ORIGINS} for one new image")
    if len(request.origin) > 1 and without:
        raise InputError("--origin: of one image alone can the foreground be found; give --origin-mask for each")
    if request.origin_mask and len(request.origin) != len(request.origin_mask):
        raise InputError(
            f"--origin names {len(request.origin)} images and --origin-mask {len(request.origin_mask)} label maps; "
            "give one for each, in the same order"
        )


def with_example(request: GenerateRequest) -> GenerateRequest:
    """The ``request`` itself, or of the small example if it names no file. Raises InputError for half of one."""
    if request.origin or request.origin_mask or request.target_mask:
        return request
    if request.classes is not None:
        raise InputError("--classes: belongs to masks of your own; give --origin, --origin-mask and --target-mask")
    origin, mask, target = (SMALL / name for name in ("ihc.png", "ihc_mask.png", "target_a.png"))
    given = () if request.preset == "alaluf" else (mask,)
    return replace(request, origin=(origin,), origin_mask=given, target_mask=(target,), classes=EXAMPLE_CLASSES)


def _record(
    request: GenerateRequest,
    settings: Settings,
    classes: ClassMap,
    item: Output,
    seed: int,
    digests: Mapping[str, str],
    details: Mapping[str, Value],
) -> Provenance:
    """All that makes this one image again."""
    arguments: dict[str, Value] = {
        "origin": _texts(request.origin),
        "origin-mask": _texts(request.origin_mask),
        "target-mask": os.fspath(request.target_mask[item.target]),
        "classes": str(classes),
        "weights": request.weights,
        **({"lora": list(request.lora)} if request.lora else {}),
        "seed": seed,
        "preset": "winter" if request.preset is None else request.preset,
        **settings_record(settings),
        "device": request.device,
        "dtype": request.dtype,
        "impl": request.impl,
        "output": os.fspath(item.image),
    }
    return Provenance(VERSION, "generate", arguments, digests, details)


def _texts(paths: Sequence[Path]) -> Value:
    """One as it was always written, several as a list."""
    return [os.fspath(path) for path in paths] if len(paths) > 1 else _text(next(iter(paths), None))


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
