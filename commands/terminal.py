"""Text on a terminal, which nothing that is printed can steer, and the end of a program, which tidies up."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Ended(BaseException):
    """A signal asks the program to end. ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def print_whatever_the_encoding() -> None:
    """Let standard output and error write what their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors="backslashreplace")


class End:
    """Whether a signal has asked for the end."""

    def __init__(self) -> None:
        self._asked: BaseException | None = None

    def raise_if_asked(self) -> None:
        """Raise `Ended` or KeyboardInterrupt again if the first was swallowed, as a library's import may do."""
        if self._asked is not None:
            raise self._asked

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler. The first one alone counts: what comes after must not stop the tidying."""
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        self._asked = KeyboardInterrupt() if number == signal.SIGINT else Ended(number)
        raise self._asked


@contextlib.contextmanager
def ending_in_order() -> Iterator[End]:
    """Within, an interrupt, SIGTERM and SIGHUP raise KeyboardInterrupt and `Ended`, so that all is tidied up.

    A signal that is ignored stays so (nohup, and interrupts in the background of a shell).
    """
    end = End()
    if threading.current_thread() is not threading.main_thread():
        yield end
        return
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, end.handle)
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
