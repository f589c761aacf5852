"""Where results go: names, checks before the work starts, and files that appear only when whole."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import InputError

# By what the system says; None is a name that it cannot be asked about.
_FIXES: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
    errno.EDQUOT: "your share of the disk is used up: free some space, or choose a folder on another disk",
    errno.EIO: "the disk fails: choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change the folder's permissions, or choose another",
    errno.EPERM: "change the folder's permissions, or choose another",
    errno.ENAMETOOLONG: "choose a shorter name, also for the mask that a result is named after",
}


@dataclass(frozen=True)
class Output:
    """The files of one result: ``target`` is the index of its target mask, ``variant`` counts from 0."""

    target: int
    variant: int
    image: Path
    panel: Path


@contextmanager
def replacing(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Give a new, empty file beside each of ``paths``; they take these names, one after the other, if all ends well.

    On any error, an interrupt included, the new files are removed and files already at ``paths`` are left alone.

    Raises:
        InputError: the system does not let a file be written.
    """
    wanted = [Path(path) for path in paths]
    partials = [path.with_name(f".{secrets.token_hex(6)}.part") for path in wanted]
    try:
        try:
            for partial in partials:
                # Not tempfile's: its files are readable by their owner alone, and stay so under the final name.
                partial.touch(exist_ok=False)
            yield partials
            for partial, path in zip(partials, wanted, strict=True):
                os.replace(partial, path)
        except BaseException:
            for partial in partials:
                partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(wanted[-1], error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all. Raises InputError."""
    with replacing(path) as (partial,):
        partial.write_text(text, encoding="utf-8")


def plan_outputs(
    output: str | os.PathLike[str],
    targets: Sequence[str | os.PathLike[str]],
    variants: int,
    inputs: Sequence[str | os.PathLike[str]],
    fields: Collection[int] | None = None,
) -> list[Output]:
    """Name every file of a run, target after target and variant after variant, and check that they can be written.

    ``output`` ending in ``.png`` names the image; with several targets or variants their stem and number are added
    to it (``new-target_a-2.png``). Anything else is a folder, made if need be, in which an image is called after its
    target mask. A panel is a PNG with ``-panel`` after the image's name. With ``fields`` images may be TIFF: where
    ``output`` ends in ``.tif`` or ``.tiff``, and in a folder those of the targets with these numbers.

    Raises:
        InputError: the folder cannot be made or written, ``output`` ends in another image format, or a file of the
            run would be one of ``inputs``.
        ValueError: no target, or fewer than one variant.
    """
    output = Path(output)
    if not targets or variants < 1:
        raise ValueError(f"nothing to name: {len(targets)} targets, {variants} variants")
    suffix = output.suffix.lower()
    written = {".png": "PNG"} | ({} if fields is None else {".tif": "TIFF", ".tiff": "TIFF"})
    if suffix in {".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"} - set(written):
        kinds = " or ".join(dict.fromkeys(written.values()))
        ends = " or ".join(list(written)[:2])
        raise InputError(f"{output}: images are written as {kinds}; end the name of `output` in {ends}")
    as_file = suffix in written and not os.path.isdir(output)
    folder = output.parent if as_file else output
    _check_folder(folder)

    taken: set[str] = set()
    planned: list[Output] = []
    for index, target in enumerate(targets):
        parts = [output.stem] if as_file else []
        if not as_file or len(targets) > 1:
            parts.append(Path(target).stem)
        ending = output.suffix if as_file and suffix != ".png" else ".png"
        if not as_file and fields is not None and index in fields:
            ending = ".tif"
        for variant in range(variants):
            number = [str(variant + 1).zfill(len(str(variants)))] if variants > 1 else []
            stem = _free("-".join(parts + number), taken)
            planned.append(Output(index, variant, folder / f"{stem}{ending}", folder / f"{stem}-panel.png"))
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


def is_within(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether ``path`` lies in ``folder``, links followed."""
    real, outer = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, outer]) == outer


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
    except (OSError, ValueError) as error:
        raise _cannot_write(folder, error, "not a folder to write into") from error


def _check_file(path: Path, inputs: Sequence[str | os.PathLike[str]]) -> None:
    try:
        mode = path.stat().st_mode if os.path.lexists(path) and path.exists() else os.lstat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder has the name of a result; choose another name")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise InputError(f"{path}: a device or pipe has the name of a result; choose another name")
    for source in inputs:
        if os.path.realpath(path) == os.path.realpath(source) or _same_file(path, source):
            raise InputError(f"{path}: is an input and would be overwritten; choose another name")


def _same_file(path: Path, source: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(path, source)
    except OSError:
        return False


def _cannot_write(path: Path, error: OSError | ValueError, what: str = "cannot be written") -> InputError:
    number = error.errno if isinstance(error, OSError) else None
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return InputError(f"{path}: {what} ({reason}); {_FIXES.get(number, 'choose another name')}")
