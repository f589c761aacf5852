"""What a run leaves behind: checked before the work starts, said where it takes another's place, written whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor

from commands.options import by_present_names
from imaging.errors import InputError
from imaging.images import encode_png
from imaging.output import Output, check_output_file, is_within, replacing
from imaging.provenance import KEY, Provenance, parse_provenance, read_provenance
from imaging.windows import SUFFIXES, Resolution, encode_tiff
from model.checkpoint.tensors import CheckpointIndex, read_index
from model.errors import CheckpointError
from model.files import exists, is_folder

SUFFIX = ".safetensors"
LATENTS = "latents"
MASKS = "masks"


def plan_latents(
    path: Path | None, planned: Sequence[Output], inputs: Sequence[str | os.PathLike[str]], weights: str
) -> list[Path | None]:
    """A file for the latents of each image: ``path`` itself, or with the image's name added if there are several.

    Raises:
        InputError: another suffix, a file of ``inputs``, one that would lie among the ``weights``, or one that exists
            and holds something else than latents.
    """
    if path is None:
        return [None] * len(planned)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: the name for --save-latents must end in {SUFFIX}")
    several = len(planned) > 1
    files = [path.with_name(f"{path.stem}-{item.image.stem}{SUFFIX}") if several else path for item in planned]
    if is_folder(Path(weights)) and is_within(path, weights):
        raise InputError(f"{path}: lies in the folder of the weights, which it could damage; choose another folder")
    for file in files:
        check_output_file(file, inputs)
        if exists(file) and _latents_at(file) is None:
            raise InputError(f"{file}: exists, and holds no latents that this program wrote; choose another name")
    return [*files]


def refuse_foreign(planned: Sequence[Output], weights: str) -> None:
    """Raise InputError if an image or a panel would take the place of a file among the ``weights``."""
    if not is_folder(Path(weights)):
        return
    for item in planned:
        for path in (item.image, item.panel):
            if exists(path) and is_within(path, weights) and record_at(path) is None:
                raise InputError(f"{path}: a file of the weights' folder would be overwritten; choose another name")


def replaced(image: Path, record: Provenance) -> Iterator[str]:
    """What the user should know if there is already something at ``image``, where one of ``record`` will be."""
    if not os.path.lexists(image):
        return
    old = record_at(image)
    if old is None:
        yield f"{image}: takes the place of a file that this program did not write"
        return
    before = by_present_names(old.arguments)
    options = [name for name in {**before, **record.arguments} if before.get(name) != record.arguments.get(name)]
    if old.inputs != record.inputs:
        options.append("the contents of inputs")
    if options or old.version != record.version:
        what = f"others in {', '.join(options)}" if options else f"version {old.version}"
        yield f"{image}: takes the place of an image of other settings ({what})"
    stale = _stale_latents(old, record)
    if stale is not None:
        yield f"{stale}: the latents of that image will be removed with it"
    for path in _stale_masks(old, record):
        yield f"{path}: the mask of that image will be removed with it"


def write_result(
    item: Output,
    latents_path: Path | None,
    pixels: NDArray[np.uint8],
    sheet: NDArray[np.uint8],
    latents: Tensor,
    record: Provenance,
    resolution: Resolution | None,
    masks: Mapping[Path, NDArray[np.uint8]] | None = None,
) -> None:
    """Write an image [H, W, 3], its panel and, where asked for, its ``latents`` [1, 4, h, w] and ``masks`` [·, ·]: all
    of them or none.

    The image comes last: where it is, the others are too. Latents and masks of an image whose place it takes are
    removed. A TIFF has the ``resolution``.
    """
    text = record.text()
    old = record_at(item.image) if os.path.lexists(item.image) else None
    stale = [] if old is None else [*_stale_masks(old, record)]
    latents_of_old = None if old is None else _stale_latents(old, record)
    stale += [] if latents_of_old is None else [latents_of_old]
    as_tiff = item.image.suffix.lower() in SUFFIXES
    image = encode_tiff(pixels, text, resolution) if as_tiff else encode_png(pixels, text)
    files = {path: encode_png(mask, text) for path, mask in (masks or {}).items()}
    files |= {item.panel: encode_png(sheet, text), item.image: image}
    if latents_path is not None:
        # To bytes first: safetensors' own files are for their owner alone, whatever the umask says.
        tensors = {LATENTS: latents.contiguous()}
        files = {latents_path: safetensors.torch.save(tensors, metadata={KEY: text[KEY]}), **files}
    with replacing(*files) as partials:
        for partial, content in zip(partials, files.values(), strict=True):
            partial.write_bytes(content)
    for path in stale:
        with contextlib.suppress(OSError):
            path.unlink()


def record_at(path: Path) -> Provenance | None:
    """The record of a PNG that this program wrote; None for any other file."""
    try:
        return read_provenance(path)
    except InputError:
        return None


def _latents_at(path: Path) -> CheckpointIndex | None:
    """The table of a file of latents; None for any other."""
    try:
        table = read_index(path)
    except CheckpointError:
        return None
    return table if list(table.entries) == [LATENTS] else None


def _stale_latents(old: Provenance, new: Provenance) -> Path | None:
    """The latents of the image of ``old``, if they are where it says and ``new`` writes none there."""
    name = old.details.get(LATENTS)
    if not isinstance(name, str) or name == new.details.get(LATENTS):
        return None
    path = Path(name)
    table = _latents_at(path)
    if table is None:
        return None
    try:
        return path if parse_provenance(table.metadata.get(KEY, "null")) == old else None
    except (ValueError, RecursionError):
        return None


def _stale_masks(old: Provenance, new: Provenance) -> list[Path]:
    """The masks of the image of ``old``, as far as they are where it says and ``new`` writes none there."""
    names, others = old.details.get(MASKS), new.details.get(MASKS)
    if not isinstance(names, list):
        return []
    kept = others if isinstance(others, list) else []
    paths = [Path(name) for name in names if isinstance(name, str) and name not in kept]
    return [path for path in paths if record_at(path) == old]
