"""Which weights were used, told by their contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from imaging.provenance import file_sha256
from model.checkpoint.load import fetch
from model.files import exists, is_folder

ENDINGS = (".safetensors", ".json", ".txt")


def weights_sha256(source: str) -> str:
    """SHA-256 of the weights that ``source`` means: of the file's bytes, or of a folder's names and files' digests.

    Raises:
        CheckpointError, InputError: they are not there, or cannot be read.
    """
    path = Path(os.path.expanduser(source))
    if not exists(path):
        path = fetch(source)
    if not is_folder(path):
        return file_sha256(path)
    files = sorted(each for each in path.rglob("*") if each.suffix in ENDINGS and each.is_file())
    lines = [f"{each.relative_to(path).as_posix()} {file_sha256(each)}" for each in files]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
