"""The page that readers get: one file that holds everything and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.review.answers import FINDINGS, FORMAT, LONGEST_COMMENT, LONGEST_NAME
from evaluation.review.key import Key
from imaging.images import encode_png

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("state.js", "viewer.js", "page.js")
MOST_BYTES = 300 * 2**20
"""Of all pictures; text of more than 512 MiB is beyond Chromium."""


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def pictures_of(trials: Sequence[Sequence[NDArray[np.uint8]]]) -> list[tuple[bytes, ...]]:
    """PNG files of arrays [H, W, 3], without metadata and all of the same length.

    In-silico images are often smoother, so that their files would be shorter: zeros follow the end of a PNG, which
    readers of it pass over.
    """
    files = [[encode_png(np.ascontiguousarray(each)) for each in trial] for trial in trials]
    longest = max((len(each) for trial in files for each in trial), default=0)
    return [tuple(each.ljust(longest, b"\0") for each in trial) for trial in files]


def build_page(key: Key, pictures: Sequence[Sequence[bytes]]) -> str:
    """The page of a study: names of trials and pictures, and nothing else that the key holds."""
    study = {
        "format": FORMAT,
        "study": key.study,
        "mode": key.mode,
        "size": key.size,
        "findings": FINDINGS,
        "longest": {"name": LONGEST_NAME, "comment": LONGEST_COMMENT},
        "trials": [
            {"id": trial.id, "pictures": [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in files]}
            for trial, files in zip(key.trials, pictures, strict=True)
        ],
    }
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    script = '"use strict";\n' + "".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "STUDY": json.dumps(study).replace("<", "\\u003c")}
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        before, after = page.split(f"@{name}@")
        page = before + text + after
    return page


def _source(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
