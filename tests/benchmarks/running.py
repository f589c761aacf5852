"""Running benchmarks in this process, as on a machine without a GPU, and reading the rows that they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(monkeypatch, module, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert module.main() == 0
