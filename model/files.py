"""Looking at and reading what others wrote, without waiting for it and without filling the memory.

Only regular files are opened, which is checked before: a FIFO would wait for a writer, and a device never ends.
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

SMALL = 16 * 2**20  # bytes; the largest small file of a published model, CLIP's tokenizer.json, has 2 MB

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = 8
_short.maxdict = 4
_short.maxlevel = 3
_short.maxstring = _short.maxlong = _short.maxother = 80


def shown(value: object) -> str:
    """A value out of a file for a message: in one line, escaped like a Python literal, shortened if it is long."""
    return _short.repr(value)


def shown_name(name: str) -> str:
    """A name out of a file for a message: as it is, but escaped if it cannot be printed, shortened if it is long."""
    return name if name.isprintable() and len(name) <= 200 else shown(name)


def is_file(path: Path) -> bool:
    """Whether ``path`` is a regular file; links are followed. Raises CheckpointError if it cannot be looked at."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; links are followed. Raises CheckpointError if it cannot be looked at."""
    return stat.S_ISDIR(_mode(path))


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``. Raises CheckpointError if that cannot be told."""
    return _mode(path) != 0


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted. Raises CheckpointError if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def check_regular(path: Path) -> int:
    """The size in bytes of a regular file.

    Raises:
        CheckpointError: there is no such file, it cannot be looked at, or it is a folder, a device, a pipe or a socket.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file: check the path, or download the model again") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path}: not a regular file: put the file itself in its place")
    return found.st_size


def read_start(path: Path, count: int) -> bytes:
    """The first ``count`` bytes of a regular file, or all it has. Raises CheckpointError if it cannot be read."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_small(path: Path) -> str:
    """The text of a small file.

    Raises:
        CheckpointError: the file is missing, unreadable, larger than 16 MiB, or not UTF-8.
    """
    content = read_start(path, SMALL + 1)
    if len(content) > SMALL:
        raise CheckpointError(f"{path}: larger than {SMALL // 2**20} MiB, which no such file is: download it again")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text: download it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    NaN and infinities are let through, since diffusers itself writes ``-Infinity`` in scheduler files.

    Raises:
        CheckpointError: the file is missing, unreadable or too large, or something else than a JSON object whose keys
            are each given once.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise CheckpointError(f"{path}: gives {shown(twice)} twice: download it again")
        return found

    text = read_small(path)
    try:
        raw = json.loads(text, object_pairs_hook=unique)
    except CheckpointError:  # a ValueError, too
        raise
    except RecursionError as error:
        raise CheckpointError(f"{path}: too deeply nested: download it again") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not a JSON file: download it again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: not a JSON object: download it again")
    return raw


def _mode(path: Path) -> int:
    """The type and permission bits of what is at ``path``, 0 if nothing is."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    # A ValueError is a path that the system cannot be asked about: with a NUL character, or no valid Unicode.
    reason = error.strerror if isinstance(error, OSError) else "not a possible path"
    return CheckpointError(f"{shown_name(str(path))}: cannot be read ({reason}): check the path and its permissions")
