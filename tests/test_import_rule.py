"""Which parts of the program may import which: read off the syntax of every module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from distribution.build_parts import OWN, PARTS

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels": frozenset[str](),
    "model": frozenset({"kernels"}),
    "sampler": frozenset({"model", "kernels"}),
    "imaging": frozenset[str](),
    "dataset": frozenset({"imaging", "sampler"}),
    "evaluation": frozenset({"imaging"}),
    "commands": frozenset({"dataset", "evaluation", "imaging", "kernels", "model", "sampler"}),
}


def imported(source: str) -> set[str]:
    """The modules that ``source`` imports anywhere in it, functions and TYPE_CHECKING included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names.add(node.module or "")
    return names


def test_every_part_has_its_rule() -> None:
    assert set(MAY_IMPORT) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_nothing_but_what_lies_below_them(part: str) -> None:
    modules = sorted((ROOT / part).rglob("*.py"))
    assert modules
    for path in modules:
        for name in imported(path.read_text(encoding="utf-8")):
            owner = name.split(".")[0]
            allowed = owner == part or owner in MAY_IMPORT[part]
            assert allowed or owner not in OWN | {"benchmarks", "demo", "distribution", "tests"}, f"{path}: {name}"
