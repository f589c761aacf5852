"""The error of a setting that makes no sense."""

from __future__ import annotations


class SettingError(ValueError):
    """A setting cannot be used: ``reason`` says why, in one line, and ``field`` is its name, or None for no single one.

    Its text is ``field: reason``, or the reason alone.
    """

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason if field is None else f"{field}: {reason}")
        self.field = field
        self.reason = reason
