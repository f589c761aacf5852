"""Where the program's own files are: the demonstration weights and the small example."""

from __future__ import annotations

import contextlib
from pathlib import Path


def _here() -> Path:
    """The program's folder: short in a clone that is the current folder, and good anywhere else too."""
    folder = Path(__file__).resolve().parent.parent
    with contextlib.suppress(OSError):
        return Path() if Path.cwd() == folder else folder
    return folder


HERE = _here()
DEMO_WEIGHTS = HERE / "demo" / "weights"
SMALL = HERE / "examples" / "small"
EXAMPLE_CLASSES = "epithelium=0,stroma=1"
