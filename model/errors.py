"""The one kind of error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside cannot be used. The message is one line and names the thing and the fix.

    What it names may be called anything, so what cannot be printed is written as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            "".join(
                character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
                for character in message
            )
        )
