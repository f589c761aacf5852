"""Imports of the program's own parts get the package's name in the wheel, by syntax and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from distribution.build_parts import MODULES, PARTS, prefix_imports

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [*(path for part in PARTS for path in (ROOT / part).rglob("*.py")), *(ROOT / f"{name}.py" for name in MODULES)]
)
LAUNCHER = ROOT / "distribution" / "stainloom" / "__main__.py"

PREFIXED = {
    "from kernels import checks": "from stainloom.kernels import checks",
    "from kernels.checks import refuse as r": "from stainloom.kernels.checks import refuse as r",
    "from  \\\n    model import (\n    load,\n)": "from  \\\n    stainloom.model import (\n    load,\n)",
    "import model": "import stainloom.model as model",
    "import model as m": "import stainloom.model as m",
    "import kernels.checks as c": "import stainloom.kernels.checks as c",
    "import os, model, json, commands as j": "import os, stainloom.model as model, json, stainloom.commands as j",
    "x = 'é'; import model; from cli import main": "x = 'é'; "
    "import stainloom.model as model; from stainloom.cli import main",
    "if 1:\n    from imaging import panel  # imaging": "if 1:\n    from stainloom.imaging import panel  # imaging",
    "def f():\r\n\timport sampler\r\n": "def f():\r\n\timport stainloom.sampler as sampler\r\n",
    "from model import a\nfrom model import b": "from stainloom.model import a\nfrom stainloom.model import b",
}
UNTOUCHED = (
    "from . import kernels",
    "from .model import load",
    "from torch import kernels",
    "import torch.model as model",
    "from modelling import a",
    "import kernels_extra",
    "'''\nimport model\nfrom kernels import checks\n'''",
    "# import model",
    "model.load(x)",
    "files('numpy')",
    "find_spec('triton')",
    "open('model')",
)
REFUSED = {
    "import kernels.checks": "cannot be prefixed",
    "import os\nimport model.vae, json": "place.py:2",
    "import importlib\nimportlib.import_module('kernels.checks')": "another name in the wheel",
    "files('model')": "another name in the wheel",
    "from demo import train": "not to be had in the wheel",
    "import tests.tolerances as t": "not to be had in the wheel",
    "from stainloom import model": "not by this name in a clone",
}


@pytest.mark.parametrize("source", PREFIXED)
def test_an_own_part_is_prefixed(source):
    prefixed = prefix_imports(source.encode(), "place.py").decode()
    assert prefixed == PREFIXED[source]
    ast.parse(prefixed)


@pytest.mark.parametrize("source", UNTOUCHED)
def test_what_only_looks_like_an_own_part_is_left_alone(source):
    assert prefix_imports(source.encode(), "place.py").decode() == source


@pytest.mark.parametrize("source", REFUSED)
def test_what_cannot_be_prefixed_is_refused_with_its_place(source):
    with pytest.raises(ValueError, match=REFUSED[source]) as refusal:
        prefix_imports(source.encode(), "place.py")
    assert "place.py:" in str(refusal.value)


@pytest.mark.parametrize("path", [*SOURCES, LAUNCHER], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_can_be_prefixed_and_keeps_its_lines(path):
    source = path.read_bytes()
    prefixed = prefix_imports(source, str(path))
    left = [name for name in imported(prefixed) if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()]
    assert not left, "these would not be found in the wheel"
    changed = [(a, b) for a, b in zip(source.splitlines(), prefixed.splitlines(), strict=True) if a != b]
    assert all(b"import" in line for line, _ in changed)


def imported(source: bytes) -> set[str]:
    """First parts of what a module imports by absolute names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}
