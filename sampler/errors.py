"""What the sampler refuses. Nothing here knows how a setting is written on a command line."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class SettingError(ValueError):
    """A setting that cannot be used: its ``field``, the ``value`` given, and the ``reason``, what it must be.

    The message names the field in backquotes, which a command line turns into its flag.
    """

    def __init__(self, field: str, value: Any, reason: str) -> None:
        super().__init__(f"`{field}` {_brief(value)}: {reason}")
        self.field, self.value, self.reason = field, value, reason


class NotFiniteError(ArithmeticError):
    """Numbers left the range of the networks' type ``dtype``; ``where`` says from when on."""

    def __init__(self, where: str, dtype: torch.dtype) -> None:
        types = {"torch.float16": "`dtype` bf16 or fp32, ", "torch.bfloat16": "`dtype` fp32, "}
        super().__init__(
            f"values are not finite from {where} on, and nothing was written: try {types.get(str(dtype), '')}"
            "other weights, or settings nearer to the preset's"
        )
        self.where, self.dtype = where, dtype


def _brief(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if text.isprintable() and len(text) <= 80 else reprlib.repr(text)
