"""Running the program's commands in this process, quickly."""

from __future__ import annotations

from pathlib import Path

import cli

ROOT = Path(cli.__file__).resolve().parent
QUICK = [
    "--steps",
    "6",
    "--skip-steps",
    "1",
    "--cross-attn-64",
    "1:4",
    "--cross-attn-32",
    "1:3",
    "--adain-range",
    "2:5",
]


def generate(*arguments: str) -> int:
    return cli.main(["generate", *arguments])


def instead(arguments: list[str], words: list[str]) -> list[str]:
    """``arguments``, pairs of an option and its value, without those whose options ``words`` give anew, and these."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [*(word for pair in pairs if pair[0] not in words for word in pair), *words]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
