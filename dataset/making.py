"""Making the images of a unit: read, generated, judged, written one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset.folder import KINDS, REJECTED, Folder, Heartbeat
from dataset.inspection import read_labels, read_pair
from dataset.pairing import digest_of
from dataset.plan import MULTIPLE, Item, Plan, Source, Unit
from dataset.quality import UNTRUSTED, Look, OriginModel, Quality, judge, trusted
from imaging.errors import InputError, one_line
from imaging.images import crop, encode_png, pad_to_multiple, read_image
from imaging.provenance import Provenance, file_sha256
from imaging.rawfile import shown
from imaging.turns import turn
from sampler.errors import NotFiniteError
from sampler.inputs import TransferInputs
from sampler.prepare import Pipeline
from sampler.progress import Progress
from sampler.series import run_series
from sampler.tasks import GenerationTask


@dataclass(frozen=True)
class Made:
    """An image is there; ``reasons`` say why it was set aside, if it was."""

    item: Item
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """An image could not be made."""

    item: Item
    reason: str


@dataclass(frozen=True)
class _Image:
    """A new image [H, W, 3] and its target labels [H, W]."""

    item: Item
    image: NDArray[np.uint8]
    target: NDArray[np.int64]


@dataclass(frozen=True)
class _Inputs:
    """What has been read: origins, image [H, W, 3] and labels [H, W], by source; targets [H', W'] by place."""

    origins: dict[int, tuple[NDArray[np.uint8], NDArray[np.int64]]] = field(default_factory=dict)
    targets: dict[int, NDArray[np.int64]] = field(default_factory=dict)


@dataclass
class _Round:
    """The variants of one target, which are judged together."""

    items: list[Item]
    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Maker:
    """Makes units of ``plan``. ``cell`` is a latent position's size in pixels, ``details`` go into every row."""

    pipeline: Pipeline
    plan: Plan
    folder: Folder
    version: str
    cell: int
    min_fidelity: float
    copied_above: float
    details: Mapping[str, Any]
    heartbeat: Heartbeat

    def make(self, unit: Unit) -> Iterator[Progress | Made | Failed]:
        """Make all images of ``unit`` that are not there. What cannot be made is recorded, and the rest goes on.

        Whole batches are made, so that an image does not depend on which of its batch were there before.

        Raises:
            InputError: results cannot be written.
        """
        self.heartbeat.beat(unit.key)
        batches = [
            batch for batch in unit.batches if not all(self.folder.is_done(unit.items[place]) for place in batch)
        ]
        if not batches:
            return
        inputs = _Inputs()
        for place in (place for batch in batches for place in batch):
            try:
                self._read(inputs, unit, place)
            except InputError as error:
                yield from self._fail([unit.items[place]], error, unit)
        origins = {
            place: OriginModel.of(image, labels, len(self.plan.classes))
            for place, (image, labels) in inputs.origins.items()
        }
        rounds: dict[tuple[int, int], _Round] = {}
        for item in unit.items:
            rounds.setdefault((item.origin, item.round), _Round([])).items.append(item)
        try:
            for event in self._series(unit, batches, inputs):
                if isinstance(event, Progress):
                    yield event
                    continue
                waiting = rounds[event.item.origin, event.item.round]
                waiting.images[event.item.variant] = event.image
                if self._fill(waiting):
                    yield from self._write(waiting, origins[event.item.origin], event.target, unit)
        except NotFiniteError as error:
            yield from self._fail([unit.items[place] for batch in batches for place in batch], error, unit)

    def remake(self, unit: Unit, item: Item) -> Iterator[Progress | bytes]:
        """Make one image again, with its batch, and yield its PNG file at last. Nothing is written.

        Raises:
            InputError: an input has changed or cannot be read.
        """
        batch = next(batch for batch in unit.batches if unit.items.index(item) in batch)
        inputs = _Inputs()
        for place in batch:
            # Others' places are filled if they cannot be read, as they were when the image was made first.
            with nullcontext() if unit.items[place] == item else suppress(InputError):
                self._read(inputs, unit, place)
        for event in self._series(unit, [batch], inputs):
            if isinstance(event, Progress):
                yield event
            elif event.item == item:
                yield encode_png(event.image, self._record(item).text())

    def trial(self, unit: Unit, batch: Sequence[int]) -> int:
        """Make one batch and write nothing; returns the bytes that an image of it takes on disk with its label maps."""
        inputs, sizes = _Inputs(), []
        for place in batch:
            self._read(inputs, unit, place)
        for event in self._series(unit, [batch], inputs):
            if isinstance(event, _Image):
                origin = OriginModel.of(*inputs.origins[event.item.origin], len(self.plan.classes))
                masks = trusted(origin, [Look.of(event.image)], event.target, self.cell)
                sizes.append(len(encode_png(event.image)) + 2 * len(encode_png(masks[0])))
        return max(sizes)

    def _series(self, unit: Unit, batches: Sequence[Sequence[int]], inputs: _Inputs) -> Iterator[Progress | _Image]:
        """The images of ``batches`` whose ``inputs`` are there. Others' places are filled: batches keep their size."""
        num_classes = len(self.plan.classes)
        # One array for each input, by which the sampler knows what tasks share.
        origins = {
            place: (pad_to_multiple(image, MULTIPLE), pad_to_multiple(labels, MULTIPLE))
            for place, (image, labels) in inputs.origins.items()
        }
        targets: dict[tuple[int, str], NDArray[np.int64]] = {}
        tasks: list[GenerationTask] = []
        places: list[int | None] = []
        members: list[list[int]] = []
        for batch in batches:
            known = [place for place in batch if place in inputs.targets]
            members.append([])
            for place in (*known, *known[:1] * (len(batch) - len(known))):
                item = unit.items[place]
                target = targets.setdefault(
                    (item.target, item.dihedral), pad_to_multiple(inputs.targets[place], MULTIPLE)
                )
                members[-1].append(len(tasks))
                places.append(place if place not in places else None)
                tasks.append(GenerationTask(TransferInputs(*origins[item.origin], target, num_classes), item.seed))
        for event in run_series(self.pipeline, tasks, [each for each in members if each]):
            if isinstance(event, Progress):
                yield event
                continue
            found = places[event.index]
            if found is not None:
                target = inputs.targets[found]
                yield _Image(unit.items[found], crop(event.image, *target.shape), target)

    def _fill(self, waiting: _Round) -> bool:
        """Whether all variants of a round are known, those included that were there before."""
        for item in waiting.items:
            if item.variant not in waiting.images:
                row = self.folder.row(item)
                if row is None:
                    return False
                waiting.images[item.variant] = read_image(self.folder.files(item.id, rejected=row["rejected"])[0])
        return True

    def _write(self, ready: _Round, origin: OriginModel, target: NDArray[np.int64], unit: Unit) -> Iterator[Made]:
        looks = {variant: Look.of(image) for variant, image in sorted(ready.images.items())}
        masks = dict(zip(looks, trusted(origin, list(looks.values()), target, self.cell), strict=True))
        plain = np.where(target >= origin.num_classes, UNTRUSTED, target).astype(np.uint8)
        for item in ready.items:
            if self.folder.is_done(item):
                continue
            image, trust = ready.images[item.variant], masks[item.variant]
            quality = judge(origin, looks[item.variant], target)
            reasons = self._reasons(quality)
            contents = [encode_png(image, self._record(item).text()), encode_png(plain), encode_png(trust)]
            self.folder.commit(item, contents, self._row(item, quality, trust, reasons, contents))
            self.heartbeat.done += 1
            self.heartbeat.beat(unit.key)
            yield Made(item, reasons)

    def _reasons(self, quality: Quality) -> tuple[str, ...]:
        if quality.fidelity < self.min_fidelity:
            return (f"fidelity {quality.fidelity:.3f} is below {self.min_fidelity:g}",)
        return ()

    def _fail(self, items: Sequence[Item], error: Exception, unit: Unit) -> Iterator[Failed]:
        reason = one_line(str(error))
        for item in items:
            if self.folder.is_done(item):
                continue
            self.folder.fail(item, reason)
            self.heartbeat.failed += 1
            self.heartbeat.beat(unit.key)
            yield Failed(item, reason)

    def _read(self, inputs: _Inputs, unit: Unit, place: int) -> None:
        """Add what the item at ``place`` is made from to ``inputs``. Raises InputError."""
        item = unit.items[place]
        source = self.plan.sources[item.target]
        labels = read_labels(source.pair, self.plan.classes)
        if digest_of(labels) != source.labels_sha256:
            raise _changed(source)
        if item.origin not in inputs.origins:
            inputs.origins[item.origin] = self._origin(self.plan.sources[item.origin])
        inputs.targets[place] = np.asarray(turn(labels, item.dihedral), dtype=np.int64)

    def _origin(self, source: Source) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        assert source.pair.image is not None
        image, labels = read_pair(source.pair, self.plan.classes)
        if file_sha256(source.pair.image) != source.image_sha256 or digest_of(labels) != source.labels_sha256:
            raise _changed(source)
        return image, labels

    def _record(self, item: Item) -> Provenance:
        origin, target = self.plan.sources[item.origin], self.plan.sources[item.target]
        inputs = {origin.pair.name: origin.image_sha256, origin.pair.mask_name: origin.mask_sha256}
        inputs[target.pair.mask_name] = target.mask_sha256
        return Provenance(self.version, "dataset", {"remake": item.id}, inputs, {"synthetic": True})

    def _row(
        self,
        item: Item,
        quality: Quality,
        trust: NDArray[np.uint8],
        reasons: Sequence[str],
        contents: Sequence[bytes],
    ) -> dict[str, Any]:
        origin, target = self.plan.sources[item.origin], self.plan.sources[item.target]
        base = f"{REJECTED}/" if reasons else ""
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        names = ("file_name", "mask_file_name", "trusted_mask_file_name")
        return {
            "id": item.id,
            **{name: f"{base}{kind}/{item.id}.png" for name, kind in zip(names, KINDS, strict=True)},
            "synthetic": True,
            "rejected": bool(reasons),
            "reasons": list(reasons),
            "round": item.round,
            "variant": item.variant,
            "seed": item.seed,
            "origin": origin.pair.name,
            "origin_sha256": origin.image_sha256,
            "origin_mask": origin.pair.mask_name,
            "origin_mask_sha256": origin.mask_sha256,
            "target": target.pair.mask_name,
            "target_sha256": target.mask_sha256,
            "dihedral": item.dihedral,
            "split": origin.pair.split,
            "slide_id": origin.pair.slide,
            "patient_id": origin.pair.patient,
            "fraction_distance": item.fraction_distance,
            "shape_distance": item.shape_distance,
            "class_fractions": dict(zip(self.plan.classes.names, target.fractions, strict=True)),
            **asdict(quality),
            "copied": quality.copying > self.copied_above,
            "trusted_share": round(float((trust != UNTRUSTED).mean()), 4),
            "settings": dict(self.plan.settings),
            **self.details,
            "version": self.version,
            **{f"{name.removesuffix('_name')}_sha256": each for name, each in zip(names, digests, strict=True)},
        }


def _changed(source: Source) -> InputError:
    return InputError(f"{shown(source.pair.name)}: has changed since the plan was made; put it back, or plan anew")
