"""Work that yields after each piece of it, so that a caller can show how far it is, and returns its result."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")


def result_of(work: Generator[Any, None, T]) -> T:
    """What ``work`` returns, its ticks passed over."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
