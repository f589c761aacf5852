"""Keeping libraries from writing to the user's terminal while a file is decoded."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

# Without any handler, Python prints a library's log records of level warning and above.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ONE_AT_A_TIME = threading.RLock()
_STDERR = 2


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Send what C code writes to file descriptor 2 into a temporary file; the function given returns it as one line.

    The descriptor belongs to the whole process: what other threads write to it meanwhile lands in that file too, so
    keep the block short. Blocks in several threads wait for each other. A descriptor that was closed before is
    closed afterwards, and where no temporary file can be had nothing is captured.
    """
    with _ONE_AT_A_TIME, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        try:
            saved: int | None = os.dup(_STDERR)
        except OSError:
            saved = None
        # With descriptor 2 closed, the temporary file may be given that very number, which serves as well.
        stack.callback(_restore, saved)
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            if file.fileno() != _STDERR:
                os.dup2(file.fileno(), _STDERR)
        except OSError:
            yield lambda: ""
            return

        def text() -> str:
            file.seek(0)
            return " ".join(file.read(1 << 16).decode("utf-8", "replace").split())

        yield text


def _restore(saved: int | None) -> None:
    if saved is not None:
        os.dup2(saved, _STDERR)
        os.close(saved)
    else:
        with contextlib.suppress(OSError):
            os.close(_STDERR)
