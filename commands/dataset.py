"""`dataset`: rounds of in-silico pairs for every annotated image. What is wrong is found before any network runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from commands.dataset_job import Job, open_job, reopen_job
from commands.dataset_plan import describe_plan
from commands.notes import Note
from commands.requests import DatasetRequest
from dataset.exports import export
from dataset.folder import Folder
from dataset.making import Failed, Made
from dataset.plan import Unit
from dataset.shares import Share, share_of
from dataset.status import describe_status, read_status
from dataset.summary import CHECKSUMS, FINISHED, Totals, counted_state, finish, write_checksums
from imaging.errors import InputError
from imaging.output import replacing
from imaging.rawfile import shown
from sampler.errors import SettingError
from sampler.option import check_options
from sampler.progress import Progress


@dataclass(frozen=True)
class Line:
    """Something to print that is the result itself."""

    text: str


@dataclass(frozen=True)
class Images:
    """``done`` of ``total`` images of this run are there; ``before`` of them were there when it began."""

    done: int
    total: int
    before: int


@dataclass(frozen=True)
class Incomplete:
    """The run is over and some images could not be made."""

    failed: int
    folder: Path


Event = Note | Progress | Line | Images | Made | Failed | Incomplete


def run(request: DatasetRequest) -> Iterator[Event]:
    """Do what was asked. Raises InputError, SettingError or CheckpointError for bad input, before the first image."""
    check_options(request)
    if request.seed > 2**62:
        raise SettingError("seed", request.seed, "must be at most 2**62")
    if sum((request.plan, request.status, request.remake is not None)) > 1:
        raise InputError("--plan, --status and --remake are things of their own: give one of them")
    if request.status:
        yield from (Line(text) for text in describe_status(read_status(Folder(_input(request)))))
        return
    if request.remake is not None:
        yield from _remake(request, request.remake)
        return
    share = share_of(request.shard)
    if request.ray is not None and (request.shard is not None or share.count > 1):
        raise InputError("--ray: shares the work out by itself; leave out --shard and torchrun")
    job = yield from open_job(request, share)
    if request.plan:
        yield from (Line(text) for text in describe_plan(job))
        return
    yield from make(job)


def make(job: Job) -> Generator[Event, None, bool]:
    """Make the job's share of the images that are not there; whether the dataset is finished, by this or by others."""
    yield from _make(job, job.share)
    return (yield from _finish(job))


def _input(request: DatasetRequest) -> Path:
    if request.input is None:
        raise InputError("which dataset? give its folder, as in `dataset FOLDER --status`")
    return request.input


def _make(job: Job, share: Share) -> Iterator[Event]:
    """Make the share's units, those apart that others work on."""
    units = share.of(job.plan.units)
    total = sum(len(unit.items) for unit in units)
    before = done = sum(job.folder.is_done(item) for unit in units for item in unit.items)
    yield Images(done, total, before)
    if job.request.ray is not None:
        from commands.dataset_ray import make_by_ray

        for done in make_by_ray(job, [unit for unit in units if not _is_complete(job, unit)]):
            yield Images(done, total, before)
        return
    maker = job.maker(share.engine)
    for unit in units:
        if _is_complete(job, unit):
            continue
        with job.folder.claimed(unit) as mine:
            if not mine:
                continue
            for event in maker.make(unit):
                yield event
                if isinstance(event, Made):
                    done += 1
                    yield Images(done, total, before)


def _is_complete(job: Job, unit: Unit) -> bool:
    return all(job.folder.is_done(item) for item in unit.items)


def _finish(job: Job) -> Generator[Event, None, bool]:
    folder, plan = job.folder, job.plan
    failed = folder.failures()
    left = sum(not folder.is_done(item) and item.id not in failed for item in plan.items)
    if left:
        yield Note(f"{left} images are left to others who work on {folder.root}; run the command again if nobody does")
        return False
    for unit in plan.units:
        if not _is_complete(job, unit):
            with folder.claimed(unit) as idle:
                if not idle:
                    yield Note(f"others try again what failed in {folder.root}; they will finish it")
                    return False
    with folder.locked("finish"):
        marker = folder.work / FINISHED
        state = counted_state(folder)
        whole = marker.exists() and (folder.root / CHECKSUMS).exists()
        if not whole or marker.read_text(encoding="utf-8") != state:
            yield Note("judging is done; writing manifests, contact sheets and checksums")
            totals = finish(folder, plan, job.calibration, job.request.min_fidelity)
            yield from _told(totals, folder)
            if totals.damaged:
                return False
            marker.write_text(state, encoding="utf-8")
        if job.request.export is not None:
            export(folder, plan, job.request.export)
            write_checksums(folder, {})
    yield Line(f"dataset: {folder.root}")
    if failed:
        yield Incomplete(len(failed), folder.root)
    return True


def _told(totals: Totals, folder: Folder) -> Iterator[Event]:
    if totals.damaged:
        yield Note(f"{len(totals.damaged)} images were damaged or removed since they were made; run the command again")
        yield Incomplete(len(totals.damaged), folder.root)
        return
    yield Line(f"images:  {totals.kept} kept, {totals.rejected} set aside, {totals.failed} failed")
    if totals.copied:
        yield Note(f"{totals.copied} images resemble their origin more than real images do each other: see `copied`")


def _remake(request: DatasetRequest, item_id: str) -> Iterator[Event]:
    """Make one image again, with its batch, and put it in its place if it is the same or not there."""
    folder = Folder(_input(request))
    folder.settings()
    plan = folder.plan()
    if plan is None or not re.fullmatch(r"[0-9a-z-]{1,40}", item_id):
        raise InputError(f"--remake {shown(item_id)}: no image of {shown(folder.root)}; see the ids in its manifest")
    found = [(unit, place) for unit in plan.units for place, item in enumerate(unit.items) if item.id == item_id]
    if not found:
        raise InputError(f"--remake {shown(item_id)}: no image of {shown(folder.root)}; see the ids in its manifest")
    unit, place = found[0]
    job = yield from reopen_job(folder, plan, request)
    item = unit.items[place]
    row = folder.row(item)
    for event in job.maker("remake").remake(unit, item):
        if not isinstance(event, bytes):
            yield event
            continue
        digest = hashlib.sha256(event).hexdigest()
        rejected = row is not None and bool(row["rejected"])
        path = folder.files(item.id, rejected=rejected)[0]
        same = row is not None and row["file_sha256"] == digest
        if row is None:
            raise InputError(f"{item_id}: was not made yet; run the dataset's command to make it")
        if not same:
            yield Line(f"image:   {path} comes out otherwise here, and is left as it is")
            yield Incomplete(1, folder.root)
            return
        with replacing(path) as (partial,):
            partial.write_bytes(event)
        yield Line(f"image:   {path} (the same to the byte)")
