"""What `generate` does where the ``alaluf`` preset finds its foreground itself: checks, notes, files, the record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commands.notes import Note
from commands.requests import GenerateRequest
from commands.results import record_at
from imaging.errors import InputError
from imaging.images import crop
from imaging.output import Output, check_output_file
from imaging.provenance import Provenance, Value
from model.files import exists
from model.tokenizer import Tokenizer
from sampler.errors import SettingError
from sampler.self_segmentation import FoundMasks, noun_positions
from sampler.settings import Settings

DIGITS = 6


def check_foreground(request: GenerateRequest, settings: Settings) -> None:
    """Refuse, before any work, what cannot be done without the origin's mask.

    Raises:
        InputError: masks are to be saved, and none are found.
        SettingError: an option that wants classes of the origin, or a noun that the prompt has not.
    """
    finds = not request.origin_mask and settings.segmentation_step is not None
    if request.save_masks and not finds:
        raise InputError(
            "--save-masks: there are none to save; --preset alaluf finds masks where no --origin-mask is given and "
            "--adain is foreground"
        )
    if request.origin_mask:
        return
    if settings.adain in ("alternating", "all"):
        raise SettingError("adain", settings.adain, "knows the origin's classes by its mask: give `origin_mask`")
    for name in ("within_class_attention", "adain_features"):
        if getattr(settings, name):
            raise SettingError(name, True, "knows the origin's classes by its mask: give `origin_mask`")
    if finds:
        noun_positions(Tokenizer(), settings)


def plan_masks(wanted: bool, planned: Sequence[Output], inputs: Sequence[str | os.PathLike[str]]) -> list[list[Path]]:
    """Files for the origin's and the target's foreground of each image; none where none are ``wanted``.

    Raises:
        InputError: a file of ``inputs``, another of the run, or one that holds something else than such a mask.
    """
    if not wanted:
        return [[] for _ in planned]
    names = {str(path).lower() for item in planned for path in (item.image, item.panel)}
    files = [
        [item.image.with_name(f"{item.image.stem}-{name}_foreground.png") for name in ("origin", "target")]
        for item in planned
    ]
    for path in (path for pair in files for path in pair):
        if str(path).lower() in names:
            raise InputError(f"{path}: two results of the run would have this name; choose another name of the mask")
        check_output_file(path, inputs)
        if exists(path) and record_at(path) is None:
            raise InputError(f"{path}: exists, and is no mask that this program wrote; choose another `output`")
    return files


def noted(found: FoundMasks, image: Path) -> Iterator[Note]:
    """What the user should know of the foregrounds that an ``image`` was made by."""
    if found.adain == "global":
        shares = f"{found.origin.share:.1%} of the origin, {found.structure.share:.1%} of the target"
        yield Note(
            f"{image}: the foreground that was found ({shares}) has fewer than 2 latent positions, so statistics are "
            "matched over the whole image; name what it shows with `domain`, or give `origin_mask`"
        )


def recorded(record: Provenance, found: FoundMasks | None) -> Provenance:
    """The ``record`` with what was found: shares, each cluster's score for each noun, and what AdaIN made of it."""
    if found is None:
        return record
    details: dict[str, Value] = {"adain-used": found.adain}
    for name, each in (("origin", found.origin), ("target", found.structure)):
        threshold = None if each.threshold is None else round(each.threshold, DIGITS)
        details[f"{name}-foreground-share"] = round(each.share, DIGITS)
        details[f"{name}-noun-scores"] = [[round(score, DIGITS) for score in row] for row in each.scores]
        details[f"{name}-score-above"] = threshold
    return replace(record, details={**record.details, **details})


def pixel_masks(
    found: FoundMasks | None, factor: int, origin: tuple[int, int], target: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """The foregrounds of origin [H, W] and target [H', W'] in pixels, of which ``factor`` make a latent position."""
    if found is None:
        return None
    return _pixels(found.origin.mask, factor, origin), _pixels(found.structure.mask, factor, target)


def mask_images(
    paths: Sequence[Path], masks: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
) -> Mapping[Path, NDArray[np.uint8]]:
    """The files of masks, as label maps: 0 (class 0) is foreground, 255 (class 1) is the rest."""
    if not paths or masks is None:
        return {}
    return {path: np.where(mask, 0, 255).astype(np.uint8) for path, mask in zip(paths, masks, strict=True)}


def _pixels(mask: Tensor, factor: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    grid: NDArray[np.bool_] = mask.cpu().numpy()
    return crop(grid.repeat(factor, axis=0).repeat(factor, axis=1), *shape)
