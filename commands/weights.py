"""Which weights were used, told by their contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from imaging.errors import InputError
from imaging.provenance import file_sha256
from imaging.rawfile import shown
from model.checkpoint.load import fetch
from model.files import exists, is_file, is_folder

ENDINGS = (".safetensors", ".json", ".txt")


def weights_sha256(source: str) -> str:
    """SHA-256 of the weights that ``source`` means: of the file's bytes, or of a folder's names and files' digests.

    Raises:
        CheckpointError, InputError: they are not there, or cannot be read.
    """
    path = Path(os.path.expanduser(source))
    if is_file(path):
        return file_sha256(path)
    if exists(path) and not is_folder(path):
        raise InputError(f"{shown(source)}: neither a file nor a folder; give a model's folder or .safetensors file")
    if not exists(path):
        path = fetch(source)
    files = sorted(each for each in path.rglob("*") if each.suffix in ENDINGS and each.is_file())
    lines = [f"{each.relative_to(path).as_posix()} {file_sha256(each)}" for each in files]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
