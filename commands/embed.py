"""`embed`: real and in-silico images in one picture, and how far apart they are. Features are kept as they are made."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import model
from commands import VERSION
from commands.dataset import Line
from commands.evaluation_requests import EmbedRequest
from commands.loras import read_loras
from commands.machine import check_memory, choose_device, choose_dtype
from commands.notes import Note
from commands.samples import SampleSet, read_samples
from commands.weights import weights_sha256
from evaluation.embedding.features import Encoder, FeatureStore, embed
from evaluation.embedding.figure import check_installed
from evaluation.embedding.images import REAL, EmbeddedImage, look_at, units_of
from evaluation.embedding.projection import check_projection, project
from evaluation.embedding.report import FILES, Embedding, summary_lines, write_embedding
from evaluation.embedding.yardstick import FEWEST_UNITS, SPLITS, Comparison, compare
from evaluation.samples import Sample
from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.images import pad_to_multiple
from imaging.output import is_within
from imaging.rawfile import shown
from sampler.execution import Execution
from sampler.image_features import ImageFeatures
from sampler.option import check_options
from sampler.progress import Progress, Ticks

WORK = "work"
FEWEST_REAL = 4
FEWEST_OTHERS = 2
FEW_SLIDES = 8

Event = Note | Progress | Line


@dataclass(frozen=True)
class DiffusionEncoder:
    """`sampler.image_features` on images of any size, padded by reflection as everywhere."""

    features: ImageFeatures
    description: Mapping[str, Any]

    @property
    def width(self) -> int:
        """Numbers of an image."""
        return self.features.width

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB [H, W, 3] -> [width]."""
        return self.features(pad_to_multiple(image, self.features.multiple))


def run(request: EmbedRequest) -> Iterator[Event]:
    """Embed, compare and draw. Raises InputError, SettingError or CheckpointError for bad input."""
    check_options(request)
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    classes = None if request.classes is None else ClassMap.parse(request.classes)
    assert request.input is not None
    real = read_samples(request.input)
    arms = dict(zip(arm_names(request.insilico), map(read_samples, request.insilico), strict=True))
    chosen = _chosen(real, request.split)
    for arm in arms.values():
        if len(arm.samples) < FEWEST_OTHERS:
            raise InputError(f"{shown(arm.path)}: one image alone; give sets of {FEWEST_OTHERS} or more")
    check_installed()
    check_projection(request.projection, len(chosen) + sum(len(arm.samples) for arm in arms.values()))
    encoder = _encoder(request, device, dtype)
    yield from _open_folder(request)
    looking = look_at(
        shown(request.input), chosen, {name: arm.samples for name, arm in arms.items()}, classes or real.classes
    )
    total = 2 * len(chosen) + sum(len(arm.samples) for arm in arms.values())
    images, decided, notes = yield from Ticks("read", total).during(looking)
    units, unit = units_of(images, FEWEST_UNITS)
    yield from (Note(text) for text in (*notes, *_notes(images, unit)))
    _check_room(encoder, images, device, dtype)
    store = FeatureStore(request.output / WORK / "features")
    features = yield from Ticks("embed", len(images)).during(embed(images, encoder, store))
    exact = features.astype(np.float64)
    comparisons = yield from _comparisons(images, units, exact, request.seed)
    yield Note(f"drawing {len(images)} images by {request.projection}")
    points = project(exact, request.projection, seed=request.seed)
    embedding = Embedding(
        VERSION,
        images,
        decided,
        features,
        points,
        tuple(comparisons),
        encoder.description,
        unit,
        request.projection,
        request.seed,
    )
    write_embedding(request.output, embedding)
    yield from (Line(text) for text in summary_lines(embedding))
    yield Line(f"report:  {request.output / FILES.report}")


def arm_names(paths: Sequence[Path]) -> list[str]:
    """A name for each set: its folder's, with as many of the folders above as tell it from the others and from `REAL`.

    Sets of the same folder are numbered.
    """
    parts = [Path(os.path.realpath(path)).parts for path in paths]
    names = []
    for number, own in enumerate(parts):
        others = [each for place, each in enumerate(parts) if place != number and each != own] + [(REAL,)]
        depth = 1
        while depth < len(own) and any(own[-depth:] == other[-depth:] for other in others):
            depth += 1
        names.append("/".join(own[-depth:]).lstrip("/") or "set")
    return [name if names.count(name) == 1 else f"{name} {place + 1}" for place, name in enumerate(names)]


def _chosen(real: SampleSet, wanted: str | None) -> list[Sample]:
    """The real images that are asked for."""
    made = next((sample for sample in real.samples if sample.synthetic), None)
    if made is not None:
        raise InputError(
            f"{shown(made.image)}: made in silico, and among the real images; give those of its input first"
        )
    splits = sorted({sample.split for sample in real.samples})
    listed = ", ".join(brief(split or "none") for split in splits)
    if wanted is not None and wanted not in splits:
        raise InputError(f"`split` {brief(wanted)}: there is no such split; known are {listed}")
    train = [split for split in splits if split.lower() in ("train", "training")]
    chosen = wanted if wanted is not None else train[0] if len(splits) > 1 and train else None
    samples = [sample for sample in real.samples if chosen is None or sample.split == chosen]
    if len(samples) < FEWEST_REAL:
        raise InputError(f"{shown(real.path)}: {len(samples)} real images; give at least {FEWEST_REAL} to compare with")
    return samples


def _open_folder(request: EmbedRequest) -> Iterator[Note]:
    """Make the output's folder, or check that it is one of ours."""
    root = request.output
    if "\0" in str(root):
        raise InputError(f"{shown(root)}: no possible path; check `output`")
    for given in (request.input, *request.insilico):
        if given is not None and (is_within(root, given) or is_within(given, root)):
            raise InputError(
                f"{shown(root)}: results must not lie among the inputs, nor these among them; choose another"
            )
    try:
        root.mkdir(parents=True, exist_ok=True)
        there = {name for name in os.listdir(root) if not name.endswith(".part")}
        if not there <= {WORK, *FILES.all}:
            raise InputError(f"{shown(root)}: not empty, and no embedding; choose a new folder for `output`")
        (root / WORK).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{shown(root)}: cannot be written to ({error.strerror}); choose another folder") from error
    if there & set(FILES.all):
        yield Note(f"{shown(root)}: holds results of an earlier run, which these replace at the end")


def _notes(images: Sequence[EmbeddedImage], unit: str) -> Iterator[str]:
    slides = len({each.unit for each in images if each.real})
    if unit == "image":
        yield (
            f"real images of fewer than {FEWEST_UNITS} known slides: images are drawn instead of slides, and halves of "
            "the real set are more alike than different slides are"
        )
    elif slides < FEW_SLIDES:
        yield f"{slides} real slides: their intervals are rough"


def _encoder(request: EmbedRequest, device: torch.device, dtype: torch.dtype) -> Encoder:
    if request.encoder != "diffusion":
        if request.lora:
            raise InputError("`lora`: changes diffusion weights, and `encoder` is another; leave it out")
        from evaluation.embedding.vision_models import load_encoder

        return load_encoder(request.encoder, device, dtype)
    digest = weights_sha256(request.weights)
    loras = read_loras(request.lora)
    loaded = model.load(request.weights, dtype=dtype, device=device, loras=[each.lora for each in loras])
    loaded.prepack()
    features = ImageFeatures.of(loaded, request.t, request.seed, Execution())
    description = {
        "kind": "diffusion",
        "name": f"diffusion features of {loaded.name}",
        "weights_sha256": digest,
        **({"lora": [each.content for each in loras]} if loras else {}),
        "t": request.t,
        "seed": request.seed,
        "layers": "inputs of the decoder's self-attention at levels " + ", ".join(map(str, features.levels)),
        "pooling": "mean over positions",
        "prompt": "",
        "dtype": str(dtype).removeprefix("torch."),
    }
    return DiffusionEncoder(features, description)


def _check_room(encoder: Encoder, images: Sequence[EmbeddedImage], device: torch.device, dtype: torch.dtype) -> None:
    """Raise InputError for an image that is too large for the memory; other encoders make images small."""
    if isinstance(encoder, DiffusionEncoder):
        largest = max(images, key=lambda each: each.shape[0] * each.shape[1])
        check_memory(encoder.features.model.config, largest.shape, dtype, device, largest.sample.image)


def _comparisons(
    images: Sequence[EmbeddedImage], units: Sequence[str], features: NDArray[np.float64], seed: int
) -> Generator[Progress, None, list[Comparison]]:
    """Each in-silico set against the real images, and each of its rounds where there are several."""
    real = [place for place, each in enumerate(images) if each.real]
    sets: dict[str, list[int]] = {}
    for arm in dict.fromkeys(each.arm for each in images if not each.real):
        places = [place for place, each in enumerate(images) if each.arm == arm]
        rounds = sorted({number for place in places if (number := images[place].round) is not None})
        sets[arm] = places
        if len(rounds) > 1:
            for number in rounds:
                sets[f"{arm}, round {number}"] = [place for place in places if images[place].round == number]
    sets = {name: places for name, places in sets.items() if len(places) >= FEWEST_OTHERS}  # of rounds
    found = []
    ticks = Ticks("compare", SPLITS * len(sets))
    for name, places in sets.items():
        theirs, ours = ([units[place] for place in each] for each in (real, places))
        work = compare(name, features[real], features[places], theirs, ours, seed=seed)
        found.append((yield from ticks.during(work)))
    return found
