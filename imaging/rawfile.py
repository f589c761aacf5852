"""The bytes of an input file, with everything that is no ordinary file kept out before it is opened for reading."""

from __future__ import annotations

import os
import stat

from imaging.errors import InputError, one_line

# A picture at Pillow's limit of 89 megapixels takes 0.7 GB uncompressed in 16-bit RGBA.
MAX_BYTES = 2**30

_LONGEST_SHOWN = 300


def shown(path: str | os.PathLike[str]) -> str:
    """A file's name for a message: on one line, without control characters, and not endless."""
    text = one_line(os.fsdecode(path))
    if not text:
        return "''"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:40]}…{text[-40:]}"


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file; links are followed. Raises InputError if it cannot be looked at."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError(_unreadable(shown(path), error)) from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a regular file of at most 1 GiB whole. Links are followed; pipes, devices and sockets are never waited for.

    Raises:
        InputError: there is no such file, it is no regular file, it may not be read, or it is larger than that.
    """
    name = shown(path)
    try:
        # Looked at before it is opened: opening alone can start a tape or wait for a pipe's other end.
        _check_kind(name, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_kind(name, status)
            # As much as it says it has, since room for all that is asked for is taken; then what it may have grown by.
            data: bytes | None = file.read(status.st_size + 1)
            if data is not None and len(data) > status.st_size:
                data += file.read(MAX_BYTES + 1 - len(data)) or b""
    except InputError:  # a ValueError, too
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name}: no such file; check the name and the folder") from error
    except PermissionError as error:
        raise InputError(f"{name}: may not be read ({error.strerror}); change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL or a character that file names cannot hold
        raise InputError(_unreadable(name, error)) from error
    if data is None:  # some of the kernel's own files would be waited for like pipes
        raise InputError(f"{name}: nothing to read there yet; give the path of an image file")
    if len(data) > MAX_BYTES:
        raise InputError(_too_large(name))
    return data


def _check_kind(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: not a file; give the path of an image file")
    if status.st_size > MAX_BYTES:
        raise InputError(_too_large(name))


def _unreadable(name: str, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"{name}: cannot be read ({reason}); check the name and the folder"


def _too_large(name: str) -> str:
    return f"{name}: larger than {MAX_BYTES >> 30} GiB; cut it into smaller patches, for example of 512 px"
