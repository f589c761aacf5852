"""Memory of the process on the host."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Give freed memory back to the system, before work that needs large blocks.

    The C library keeps what smaller blocks leave for others like them; where it has no way to let go, nothing happens.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        # Another C library than glibc; on Windows none can be had so.
        return
    trim(0)
