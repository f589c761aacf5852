"""Locks between processes that share a folder. A lock ends with its process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imaging.errors import InputError
from imaging.rawfile import shown


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Within, whether the lock of the file ``path``, which is made, is this process's; with ``wait`` it always is.

    Raises:
        InputError: the disk has no file locks.
        OSError: the file cannot be made.
    """
    import fcntl

    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise InputError(f"{shown(path)}: this disk has no file locks ({error.strerror}); take another") from error
        yield True
