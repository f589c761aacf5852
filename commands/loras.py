"""``--lora FILE[:WEIGHT]``: what was given, read, and told by its contents."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import InputError
from imaging.provenance import file_sha256
from imaging.rawfile import shown
from model.checkpoint.lora import Lora
from model.files import exists

MOST_WEIGHT = 100.0
_NUMBER = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(e[+-]?[0-9]{1,3})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class GivenLora:
    """One LoRA of a command line: ``text`` as it was given, and the SHA-256 of its file."""

    text: str
    lora: Lora
    sha256: str

    @property
    def short(self) -> str:
        """Its name and weight, without the folder that it lies in."""
        return f"{self.lora.path.name}:{self.lora.weight:g}"

    @property
    def content(self) -> str:
        """What of it changes images: equal for the same file under another name."""
        return f"{self.sha256}:{self.lora.weight!r}"


def read_loras(texts: Sequence[str]) -> list[GivenLora]:
    """What `lora` says. Raises InputError or CheckpointError for a file that is not there or a weight out of bounds."""
    given = []
    for text in texts:
        path, behind = split_weight(text)
        weight = float(behind[1:]) if behind else 1.0
        if not abs(weight) <= MOST_WEIGHT:
            raise InputError(f"--lora {shown(text)}: the weight must be from {-MOST_WEIGHT:g} to {MOST_WEIGHT:g}")
        lora = Lora(Path(os.path.expanduser(path)), weight)
        if not path or not exists(lora.path):
            raise InputError(
                f"--lora {shown(text)}: no such file; give a LoRA's .safetensors file, or FILE:0.8 for a weight of 0.8"
            )
        given.append(GivenLora(text, lora, file_sha256(lora.file)))
    return given


def split_weight(text: str) -> tuple[str, str]:
    """``a:b.safetensors:0.8`` -> its path, and ``:0.8`` as it stands there, or nothing.

    The last colon counts if a number follows, unless a file is called so as a whole.
    """
    path, colon, number = text.rpartition(":")
    if not colon or not _NUMBER.fullmatch(number) or exists(Path(os.path.expanduser(text))):
        return text, ""
    return path, f":{number}"


def absolute(text: str) -> str:
    """The same in any folder."""
    path, behind = split_weight(text)
    return f"{Path(os.path.expanduser(path)).resolve()}{behind}"
