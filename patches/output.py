"""Where results go: names, checks before the work starts, and files that appear only when whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.errors import InputError


@dataclass(frozen=True)
class Output:
    """The files of one result: ``target`` is the index of its target mask, ``variant`` counts from 0."""

    target: int
    variant: int
    image: Path
    panel: Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new, empty file beside ``path``; it takes the name ``path`` if the block ends well.

    On any error, an interrupt included, the new file is removed and a file already at ``path`` is left alone.

    Raises:
        InputError: the system does not let the file be written.
    """
    path = Path(path)
    partial = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        try:
            # Not tempfile's: its files are readable by their owner alone, and stay so under the final name.
            partial.touch(exist_ok=False)
            yield partial
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another name") from error


def plan_outputs(
    output: str | os.PathLike[str],
    targets: Sequence[str | os.PathLike[str]],
    variants: int,
    inputs: Sequence[str | os.PathLike[str]],
) -> list[Output]:
    """Name every file of a run, target after target and variant after variant, and check that they can be written.

    ``output`` ending in ``.png`` names the image; with several targets or variants their stem and number are added
    to it (``new-target_a-2.png``). Anything else is a folder, made if need be, in which an image is called after its
    target mask. A panel has ``-panel`` after the image's name.

    Raises:
        InputError: the folder cannot be made or written, ``output`` ends in another image format, or a file of the
            run would be one of ``inputs``.
        ValueError: no target, or fewer than one variant.
    """
    output = Path(output)
    if not targets or variants < 1:
        raise ValueError(f"nothing to name: {len(targets)} targets, {variants} variants")
    suffix = output.suffix.lower()
    if suffix in {".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}:
        raise InputError(f"{output}: images are written as PNG; end the name of --output in .png")
    as_file = suffix == ".png" and not output.is_dir()
    folder = output.parent if as_file else output
    _check_folder(folder)

    taken: set[str] = set()
    planned: list[Output] = []
    for index, target in enumerate(targets):
        parts = [output.stem] if as_file else []
        if not as_file or len(targets) > 1:
            parts.append(Path(target).stem)
        for variant in range(variants):
            number = [str(variant + 1).zfill(len(str(variants)))] if variants > 1 else []
            stem = _free("-".join(parts + number), taken)
            planned.append(Output(index, variant, folder / f"{stem}.png", folder / f"{stem}-panel.png"))
    for item in planned:
        for path in (item.image, item.panel):
            _check_file(path, inputs)
    return planned


def check_output_file(path: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Check that one more file of a run can be written; its folder is made if need be.

    Raises:
        InputError: as :func:`plan_outputs`.
    """
    path = Path(path)
    _check_folder(path.parent)
    _check_file(path, inputs)


def _free(stem: str, taken: set[str]) -> str:
    """``stem``, or with a number where it or its panel is taken; case aside, as on some file systems."""
    candidate, count = stem, 1
    while {candidate.lower(), f"{candidate}-panel".lower()} & taken:
        count += 1
        candidate = f"{stem}_{count}"
    taken.update({candidate.lower(), f"{candidate}-panel".lower()})
    return candidate


def _check_folder(folder: Path) -> None:
    probe = folder / f".{secrets.token_hex(6)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder}: not a folder to write into ({reason}); choose another name") from error


def _check_file(path: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    if path.is_dir():
        raise InputError(f"{path}: a folder has the name of a result; choose another name")
    for source in inputs:
        same = path.exists() and Path(source).exists() and path.samefile(source)
        if same or path.resolve() == Path(source).resolve():
            raise InputError(f"{path}: is an input and would be overwritten; choose another name")
