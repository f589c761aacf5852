"""Memory of the process on the host."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give freed memory back to the system, before work that needs large blocks.

    The C library keeps what smaller blocks leave for others like them; where it has no way to let go, nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
