"""The errors of what the networks are given: weights, and prompts."""

from __future__ import annotations

from collections.abc import Iterable

MOST_SHOWN = 1000


class CheckpointError(ValueError):
    """Weights cannot be used. The message is one line and names the file and the fix.

    Where the message is of many things, ``problems`` has a line for each, up to `MOST_SHOWN`. Files and what they hold
    may be called anything, so what cannot be printed is written as an escape.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(_escaped(message))
        lines = [_escaped(problem) for problem in problems]
        more = [f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
        self.problems = (*lines[:MOST_SHOWN], *more)


class PromptError(ValueError):
    """A prompt cannot be used. The message is one line and names the fix."""


def _escaped(text: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
