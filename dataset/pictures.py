"""Pictures of a dataset: contact sheets to look at, and the distributions of its measures of quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dataset.folder import Folder
from dataset.inspection import read_labels
from dataset.plan import Item, Plan
from imaging.errors import InputError
from imaging.images import read_image
from imaging.panel import paint
from imaging.turns import turn

MOST_SHOWN = 24
TILE = 160
COLUMNS = 4
_GAP, _LINE = 6, 14
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (120, 120, 120)
_NEW, _REAL = (213, 94, 0), (0, 114, 178)
_PLOT = (300, 130)
_BINS = 24


def contact_sheet(folder: Folder, plan: Plan, items: Sequence[Item]) -> NDArray[np.uint8] | None:
    """Up to `MOST_SHOWN` of ``items`` that are there, spread over all: origin, target map and new image of each.

    None if there is none. Files that cannot be read any more are left out.
    """
    there = [item for item in items if folder.is_done(item)]
    shown = there[:: max(1, len(there) // MOST_SHOWN)][:MOST_SHOWN]
    cells = []
    for item in shown:
        try:
            cells.append(_cell(folder, plan, item))
        except InputError:
            continue
    if not cells:
        return None
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    width, height = 3 * TILE + _GAP, TILE + _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _WHITE)
    for index, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + index % columns * width, _GAP + index // columns * height))
    return np.array(sheet)


def _cell(folder: Folder, plan: Plan, item: Item) -> Image.Image:
    origin, target = plan.sources[item.origin].pair, plan.sources[item.target].pair
    row = folder.row(item)
    assert origin.image is not None
    if row is None:
        raise InputError(f"{item.id}: is not there")
    labels = np.asarray(turn(read_labels(target, plan.classes), item.dihedral), dtype=np.int64)
    tiles = [read_image(origin.image), paint(labels, len(plan.classes)), read_image(folder.root / row["file_name"])]
    cell = Image.new("RGB", (3 * TILE, TILE + _LINE), _WHITE)
    for index, tile in enumerate(tiles):
        how = Image.Resampling.NEAREST if index == 1 else Image.Resampling.LANCZOS
        cell.paste(ImageOps.contain(Image.fromarray(tile), (TILE - 2, TILE - 2), how), (index * TILE, 0))
    mark = ", set aside" if row["rejected"] else ", copied?" if row["copied"] else ""
    text = f"{item.id}  fidelity {row['fidelity']:.2f}{mark}"
    ImageDraw.Draw(cell).text((0, TILE - 1), text, fill=_BLACK, font=ImageFont.load_default(10))
    return cell


def plot(new: Mapping[str, Sequence[float]], real: Mapping[str, Sequence[float]]) -> NDArray[np.uint8]:
    """Histograms of each measure: of new images filled, of real ones as outlines; the scale spans both."""
    width, height = _PLOT
    sheet = Image.new("RGB", (2 * (width + 2 * _GAP), -(-len(new) // 2) * (height + 3 * _LINE) + _LINE), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    draw.text((_GAP, 0), "new images", fill=_NEW, font=font)
    draw.text((100, 0), "real images, judged alike", fill=_REAL, font=font)
    for index, name in enumerate(new):
        left = _GAP + index % 2 * (width + 2 * _GAP)
        top = _LINE + index // 2 * (height + 3 * _LINE)
        values = [np.asarray(each, dtype=np.float64) for each in (new[name], real.get(name, ()))]
        every = np.concatenate(values)
        low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
        high = high if high > low else low + 1e-3
        draw.text((left, top + 2), name, fill=_BLACK, font=font)
        base = top + _LINE + height
        for each, colour in zip(values, (_NEW, _REAL), strict=True):
            if not each.size:
                continue
            counts = np.histogram(each, _BINS, (low, high))[0] / each.size
            tops = base - counts / max(1e-9, float(counts.max())) * (height - 4)
            for bin_index, y in enumerate(tops):
                x = left + bin_index * width // _BINS
                box = (x, float(y), x + width // _BINS - 1, base)
                draw.rectangle(box, fill=colour if colour == _NEW else None, outline=colour)
        draw.line((left, base, left + width, base), fill=_BLACK)
        draw.text((left, base + 1), f"{low:.3f}", fill=_GREY, font=font)
        draw.text((left + width - 34, base + 1), f"{high:.3f}", fill=_GREY, font=font)
    return np.array(sheet)
