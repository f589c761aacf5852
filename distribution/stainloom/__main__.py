"""The program, as ``stainloom`` and ``python -m stainloom``."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run the command line. Returns the exit code."""
    folder = Path(__file__).resolve().parent
    if not (folder / "cli.py").is_file():
        # An editable install: the parts stay in the clone, and come before packages of the same names.
        sys.path.insert(0, str(folder.parents[1]))
    from cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
