"""The errors of what the networks are given: weights, and prompts."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Weights cannot be used. The message is one line and names the file and the fix.

    Files and what they hold may be called anything, so what cannot be printed is written as an escape.
    """

    def __init__(self, message: str) -> None:
        escaped = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in message)
        super().__init__("".join(escaped))


class PromptError(ValueError):
    """A prompt cannot be used. The message is one line and names the fix."""
