"""Fields in windows take long: where a run is, on disk beside its image, so that the next one goes on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from imaging.errors import InputError
from imaging.output import replacing
from imaging.provenance import PROGRAM, Provenance
from imaging.rawfile import is_file
from sampler.field_denoising import Reached

SAVE_EVERY = 60.0
"""Seconds between two writings; what an interrupt ends is written at its end."""
MOST_BYTES = 2**30
_KIND = f"{PROGRAM}-unfinished"
_DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError)


class Unfinished:
    """The file that holds where the run of one image is. A context manager: on leaving, the last step is written.

    ``record`` and the weights' digest tell the run: one of others begins anew. Where the disk is full or the place is
    taken by another file, nothing is written, and the run goes on.
    """

    def __init__(self, image: Path, record: Provenance, weights: str) -> None:
        self.path = image.with_name(f".{image.name}.unfinished")
        content = {"version": record.version, "arguments": record.arguments, "inputs": record.inputs}
        said = json.dumps([weights, torch.__version__, content], sort_keys=True)
        self._key = hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()
        self._latest: Reached | None = None
        self._written = time.monotonic()

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None:
            self._write(self._latest)

    def found(self) -> Reached | None:
        """Where an earlier run of the same ended, if one did."""
        head = self._head()
        if head.get("key") != self._key:
            return None
        try:
            done = int(head["done"])
            tensors = safetensors.torch.load_file(self.path)
        except _DAMAGE:
            return None
        return Reached(done, tensors) if head.get("sha256") == _digest(tensors) else None

    def reached(self, reached: Reached) -> None:
        """Take note of a finished step."""
        self._latest = reached
        if time.monotonic() - self._written >= SAVE_EVERY:
            self._write(reached)

    def remove(self) -> None:
        """The image is there: nothing is left to go on with."""
        self._latest = None
        if self._head():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _write(self, reached: Reached) -> None:
        self._latest, self._written = None, time.monotonic()
        if os.path.lexists(self.path) and not self._head():
            return
        tensors = {name: each.detach().cpu().contiguous() for name, each in reached.tensors.items()}
        head = {"kind": _KIND, "key": self._key, "done": str(reached.done), "sha256": _digest(tensors)}
        content = safetensors.torch.save(tensors, metadata=head)
        with contextlib.suppress(InputError), replacing(self.path) as (partial,):
            partial.write_bytes(content)

    def _head(self) -> Mapping[str, str]:
        """What the file says of itself; nothing if there is none of this kind."""
        try:
            if not is_file(self.path) or self.path.stat().st_size > MOST_BYTES:
                return {}
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (InputError, *_DAMAGE):
            return {}
        return metadata if metadata.get("kind") == _KIND else {}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, each in sorted(tensors.items()):
        digest.update(f"{name} {each.dtype} {list(each.shape)}".encode())
        digest.update(each.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
