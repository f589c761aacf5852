"""The one kind of error that a user can mend, and text from outside made fit to be printed."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SHOWN = 100


def one_line(text: str) -> str:
    """``text`` with line breaks, control characters and all else that cannot be printed written as escapes.

    Names of files and texts within them are other people's; an escape character in one could forge our own lines.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def brief(text: str, most: int = 60) -> str:
    """Text from outside for a message: escaped, on one line, and not endless."""
    escaped = one_line(text[: most + 1])
    return escaped if len(escaped) <= most else f"{escaped[:most]}…"


class InputError(ValueError):
    """Something given from outside cannot be used. The message is one line and names the thing and the fix.

    What it names may be called anything, so what cannot be printed is written as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ProblemsError(InputError):
    """Several things are wrong with the inputs; ``problems`` has a line for each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems[:MOST_SHOWN])
        more = len(problems) - len(self.problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{where}: {count}, so nothing was started{f'; the first {MOST_SHOWN} are above' * (more > 0)}"
        )
