"""What may be in a file's place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

KINDS = ("pipe", "device", "socket", "folder", "gone", "loop")


def replace_by(kind: str, path: Path) -> None:
    if path.exists():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "folder":
        path.mkdir()
    elif kind == "gone":
        path.symlink_to(path.with_name("gone"))
    else:
        path.symlink_to(path)
