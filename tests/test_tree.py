"""The README's map of the code names every module that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from distribution.build_parts import PARTS

ROOT = Path(__file__).parents[1]


def test_the_readmes_tree_is_that_of_the_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme[readme.index("```\ncli.py") :].split("```")[1]
    rooms = re.split(r"^(\w+)/", tree, flags=re.MULTILINE)[1:]
    words = {room: set(re.findall(r"\w+", text)) for room, text in zip(rooms[::2], rooms[1::2], strict=True)}
    for part in PARTS:
        folders = {path.parent.name for path in (ROOT / part).rglob("__init__.py")} - {part}
        modules = {path.stem for path in (ROOT / part).glob("*.py")} - {"__init__"}
        lower = {path.stem for path in (ROOT / part / "checkpoint").glob("*.py")} - {"__init__"}
        wanted = folders | lower | (modules if part != "kernels" else set())
        assert wanted <= words[part], f"{part}: {sorted(wanted - words[part])}"
    named = re.findall(r"(\w+)\.py", tree)
    present = {path.stem for path in ROOT.glob("*.py")} | {
        path.stem for part in PARTS for path in (ROOT / part).rglob("*.py")
    }
    assert set(named) <= present
