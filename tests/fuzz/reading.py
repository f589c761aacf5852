"""What may come of a damaged picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imaging.errors import InputError
from imaging.labels import read_label_set


def read_labels(path: Path) -> NDArray[Any]:
    """The one label map at ``path``, [H, W]."""
    return read_label_set([path], None).maps[0]


def refused_in_one_line_or_read(read: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any] | None:
    """The pixels [H, W] or [H, W, 3] that ``read`` gives, of a size that is taken; None if it refuses the file."""
    pixels, message = None, ""
    try:
        pixels = read(path)
    except InputError as refusal:
        message = str(refusal)
    assert message.isprintable()
    if pixels is not None:
        assert min(pixels.shape[:2]) >= 16
        assert pixels.shape[2:] in ((), (3,))
    return pixels
