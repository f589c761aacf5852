"""``python -m commands.cores``: annotated tissue cores of a public set become patches (`dataset.cores`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset.cores import write_patches
from imaging.errors import InputError, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut the cores of a folder. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m commands.cores", description="Cut annotated tissue cores up.")
    parser.add_argument("folder", type=Path, help="where an archive of the set was unpacked")
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--side", type=int, default=512, help="of a patch, in px (512)")
    parser.add_argument("--patches", type=int, default=4, help="of a core, at most (4)")
    given = parser.parse_args(arguments)
    try:
        if not (16 <= given.side <= 4096 and 1 <= given.patches <= 1000):
            raise InputError("--side: 16 to 4096 px; --patches: 1 to 1000")
        for line in write_patches(given.folder, given.output, given.side, given.patches):
            print(one_line(line), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
