"""What a finished dataset says of itself: manifests, a data card, contact sheets, a plot, checksums."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dataset.calibration import MEASURES, Calibration
from dataset.folder import KINDS, PLAN, REJECTED, SETTINGS, WORK, Folder
from dataset.pictures import contact_sheet, plot
from dataset.plan import Plan
from imaging.images import write_png
from imaging.output import replacing, write_text
from imaging.provenance import file_sha256

MANIFEST, METADATA, CARD, CHECKSUMS = "manifest.jsonl", "metadata.jsonl", "README.md", "checksums.sha256"
FAILED = "failed.jsonl"
SHEETS = "contact_sheets"
CALIBRATION = "calibration.json"
PLOT = "quality.png"
FINISHED = "finished"
"""In ``work/``: holds `counted_state` when all of the above has been written."""
COLUMNS = (
    *(
        "file_name",
        "mask_file_name",
        "trusted_mask_file_name",
        "id",
        "synthetic",
        "round",
        "variant",
        "origin",
        "target",
    ),
    *("dihedral", "seed", "split", "slide_id", "patient_id", "fidelity", "separation", "stain_distance", "copying"),
    *("copied", "trusted_share"),
)
"""Of a row in ``metadata.jsonl``, which readers of image folders take whole."""


@dataclass
class Totals:
    """What a dataset came to, gathered row by row."""

    kept: int = 0
    rejected: int = 0
    failed: int = 0
    copied: int = 0
    damaged: list[str] = field(default_factory=list)
    rounds: Counter[int] = field(default_factory=Counter)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.rounds[row["round"]] += 1
        self.kept, self.rejected = self.kept + (not row["rejected"]), self.rejected + row["rejected"]
        self.copied += row["copied"]
        for name in MEASURES:
            self.values[name].append(row[name])


def finish(folder: Folder, plan: Plan, calibration: Calibration, min_fidelity: float) -> Totals:
    """Write all that a dataset says of itself. Nobody else may work on it.

    An image of which a file is missing or altered loses its row, and is among `Totals.damaged`: to be made again.

    Raises:
        InputError: something cannot be written.
    """
    folder.sweep()
    (folder.root / REJECTED).mkdir(exist_ok=True)
    totals = Totals()
    digests: dict[str, str] = {}
    paths = [folder.root / MANIFEST, folder.root / METADATA, folder.root / REJECTED / MANIFEST]
    with replacing(*paths) as partials, ExitStack() as stack:
        files = [stack.enter_context(partial.open("w", encoding="utf-8")) for partial in partials]
        for item in plan.items:
            if not folder.is_done(item):
                continue
            row = folder.row(item)
            if row is None or not _whole(folder, row, digests):
                folder.row_path(item.id).unlink(missing_ok=True)
                totals.damaged.append(item.id)
                continue
            totals.add(row)
            _write_row(files, row)
    failures = folder.failures()
    totals.failed = len(failures)
    lines = [json.dumps({"id": each, "reason": reason}) + "\n" for each, reason in failures.items()]
    write_text(folder.root / FAILED, "".join(lines))
    write_text(folder.root / CALIBRATION, json.dumps(calibration.as_json(), indent=1) + "\n")
    write_png(folder.root / PLOT, plot(totals.values, calibration.values))
    (folder.root / SHEETS).mkdir(exist_ok=True)
    for number in sorted(totals.rounds):
        items = [item for item in plan.items if item.round == number]
        sheet = contact_sheet(folder, plan, items)
        if sheet is not None:
            write_png(folder.root / SHEETS / f"round-{number}.png", sheet)
    write_text(folder.root / CARD, data_card(plan, totals, calibration, min_fidelity))
    write_checksums(folder, digests)
    return totals


def _whole(folder: Folder, row: Mapping[str, Any], digests: dict[str, str]) -> bool:
    for name in ("file", "mask_file", "trusted_mask_file"):
        path = folder.root / row[f"{name}_name"]
        if not path.is_file() or file_sha256(path) != row[f"{name}_sha256"]:
            return False
        digests[row[f"{name}_name"]] = row[f"{name}_sha256"]
    return True


def _write_row(files: Sequence[IO[str]], row: Mapping[str, Any]) -> None:
    manifest, metadata, rejected = files
    text = json.dumps(row) + "\n"
    if row["rejected"]:
        rejected.write(text)
        return
    manifest.write(text)
    metadata.write(json.dumps({name: row[name] for name in COLUMNS}) + "\n")


def write_checksums(folder: Folder, known: Mapping[str, str]) -> None:
    """SHA-256 of every file outside of ``work/``, as ``sha256sum -c`` reads them. ``known`` need not be read again."""
    lines = []
    for path in sorted(_files(folder.root)):
        name = path.relative_to(folder.root).as_posix()
        lines.append(f"{known.get(name) or file_sha256(path)}  {name}\n")
    write_text(folder.root / CHECKSUMS, "".join(lines))


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and parts[0] not in (WORK, CHECKSUMS) and not path.name.endswith(".part"):
            yield path


def counted_state(folder: Folder) -> str:
    """A digest of which images are there and which failed: of a finished folder it tells that nothing has changed."""
    names = [*sorted(folder.done()), "failed", *folder.failures()]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def data_card(plan: Plan, totals: Totals, calibration: Calibration, min_fidelity: float) -> str:
    """The folder's README.md, with a head that the Hugging Face hub reads."""
    classes = "\n".join(f"| {index} | {each} |" for index, each in enumerate(plan.classes.names))
    origins = len({item.origin for item in plan.items})
    kind = "of one slide each" if calibration.same_slide else "of the plan, whose stains may differ"
    judged = len(calibration.values["fidelity"])
    measures = "\n".join(
        f"| {each} | {_quantiles(totals.values[each])} | {_quantiles(calibration.values[each])} |" for each in MEASURES
    )
    settings = "\n".join(f"- {key}: `{value}`" for key, value in sorted(plan.settings.items()))
    return f"""---
tags: [synthetic, histopathology, immunohistochemistry, segmentation]
task_categories: [image-segmentation]
size_categories: [{_size(totals.kept)}]
---

# In-silico images

In-silico images made by Stainloom with the method of Winter et al. (mask-guided cross-image attention) from
{origins} annotated images. **Every image is synthetic. For training models, never for diagnosis.**

{totals.kept} images are kept, {totals.rejected} set aside in `{REJECTED}/` (with reasons in its manifest),
{totals.failed} could not be made (`{FAILED}`); {totals.copied} resemble their origin more than real images resemble
each other (`copied` in the manifest).

## Files

- `{KINDS[0]}/`, `{KINDS[1]}/`: RGB images and their label maps (uint8, 255 is no class), of the same names.
- `{KINDS[2]}/`: the same label maps with 255 where a label is doubtful.
- `{MANIFEST}`: a row for each image with all that it was made from; `{METADATA}`: the columns for Hugging Face's
  `imagefolder`.
- `{PLAN}`, `{SETTINGS}`, `{CALIBRATION}`, `{PLOT}`, `{SHEETS}/`; `{CHECKSUMS}`: check with `sha256sum -c {CHECKSUMS}`.
- `{WORK}/`: for going on with the run, and for making single images again.

| label | class |
| --- | --- |
{classes}

## Quality

Lowest, middle and highest value of the new images, and of {judged} real images {kind}, judged in the same way.

| measure | new | real |
| --- | --- | --- |
{measures}

{_passed(calibration, min_fidelity)}

## Settings

{settings}
- images denoised together: `{plan.batch}`
"""


def _passed(calibration: Calibration, min_fidelity: float) -> str:
    real = calibration.values["fidelity"]
    below = sum(value < min_fidelity for value in real)
    copied = f"`copied` is said above {calibration.copied_above:.3f}."
    return (
        f"Images below a fidelity of {min_fidelity:g} are set aside; {below} of the {len(real)} real ones are. {copied}"
    )


def _quantiles(values: list[float] | tuple[float, ...]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.3f}, {ordered[len(ordered) // 2]:.3f}, {ordered[-1]:.3f}" if ordered else "–"


def _size(count: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((text for bound, text in bounds if count < bound), "100K<n<1M")
