"""Running benchmarks in this process, as on a machine without a GPU, and reading the rows that they write."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.__main__ import main


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([*map(str, arguments)]) == 0
