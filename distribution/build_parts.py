"""The wheel's layout: every part of the program below one package, ``stainloom``.

In a clone the parts import each other by short names (``from kernels import checks``). Installed under these names they
would take the place of other packages, such as Hugging Face's ``kernels``, or these theirs. So a build copies them to
``stainloom/`` and puts ``stainloom.`` before the names of own parts in imports, and nowhere else.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

PACKAGE = "stainloom"
PARTS = ("commands", "dataset", "evaluation", "imaging", "kernels", "model", "sampler")
MODULES = ("cli",)
OWN = {*PARTS, *MODULES}
DATA = {
    "evaluation": ("review/page/*",),
    "demo": ("weights/**/*",),
    "examples": ("README.md", "small/*"),
    "model": ("data/*",),
}
NOT_IN_WHEEL = {"benchmarks", "demo", "distribution", "tests"}

# Functions that take a module's name as text, which no rewriting of imports would reach.
_BY_NAME = {"__import__", "files", "find_spec", "import_module", "run_module"}


class BuildPy(build_py):
    """``build_py`` that adds the parts. An editable install takes the launcher alone: the parts stay in the clone."""

    packages: list[str] | None
    package_dir: dict[str, str] | None
    package_data: dict[str, list[str]]

    def finalize_options(self) -> None:
        """Say which folder is which package, for wheels and for the list of sources."""
        super().finalize_options()
        if self.editable_mode:
            return
        folders = [*(folder for part in PARTS for folder in _packages(Path(part))), *map(Path, DATA)]
        places = {".".join((PACKAGE, *folder.parts)): folder.as_posix() for folder in folders}
        self.packages = [*(self.packages or ()), *places]
        self.package_dir = {**(self.package_dir or {}), **places}
        self.package_data = {f"{PACKAGE}.{part}": list(patterns) for part, patterns in DATA.items()}

    def run(self) -> None:
        """Build from nothing, since all that lies in the build's folder gets into the wheel."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Modules of a package as (package, name, file); those of folders that give data alone are none."""
        if package == PACKAGE:
            extra = [] if self.editable_mode else [(PACKAGE, name, f"{name}.py") for name in MODULES]
            return [*super().find_package_modules(package, package_dir), *extra]
        if package.split(".")[1] in PARTS:
            return super().find_package_modules(package, package_dir)
        return []

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy a module with its imports prefixed."""
        built, copied = super().build_module(module, module_file, package)
        try:
            prefixed = prefix_imports(Path(module_file).read_bytes(), module_file)
        except ValueError as error:
            raise SetupError(str(error)) from error
        Path(built).write_bytes(prefixed)
        return built, copied


def _packages(part: Path) -> list[Path]:
    """The folder of a part and all those below it that hold modules."""
    return sorted({file.parent for file in part.rglob("*.py")})


def prefix_imports(source: bytes, name: str) -> bytes:
    """A module's ``source`` (UTF-8) with ``stainloom.`` before the program's own parts in imports. No line moves.

    Raises:
        ValueError: an import that cannot be prefixed, with ``name`` and its line.
    """
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    out, end = bytearray(), 0
    for line, column, text in sorted(_insertions(source, name)):
        # Columns of the syntax tree count bytes.
        place = starts[line - 1] + column
        out += source[end:place] + text
        end = place
    return bytes(out + source[end:])


def _insertions(source: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """(line, column, text) for all that is to be put into ``source``."""
    prefix = f"{PACKAGE}.".encode()
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, name)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_own(node.module or "", place):
            yield *_after_from(lines, node), prefix
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if not _is_own(alias.name, place):
                    continue
                yield alias.lineno, alias.col_offset, prefix
                if alias.asname is None:
                    if "." in alias.name:
                        raise ValueError(f"{place}: `import {alias.name}` cannot be prefixed; use `as` or `from`")
                    # `import a.b` would bind `a`.
                    yield alias.lineno, alias.col_offset + len(alias.name), f" as {alias.name}".encode()
        elif isinstance(node, ast.Call) and _called(node) in _BY_NAME and node.args:
            given = node.args[0]
            if isinstance(given, ast.Constant) and isinstance(given.value, str) and _is_own(given.value, place):
                raise ValueError(f"{place}: {given.value!r} has another name in the wheel; use __package__ or __name__")


def _is_own(module: str, place: str) -> bool:
    first = module.split(".")[0]
    if first in NOT_IN_WHEEL or first == PACKAGE:
        raise ValueError(f"{place}: `{module}` is not to be had in the wheel, or not by this name in a clone")
    return first in OWN


def _after_from(lines: list[bytes], node: ast.ImportFrom) -> tuple[int, int]:
    """Line and column of the module's name, which the syntax tree lacks; spaces and joined lines come before it."""
    line, column = node.lineno, node.col_offset + len("from")
    while lines[line - 1][column : column + 1] in b" \t\f\\\r\n":
        if column >= len(lines[line - 1]):
            line, column = line + 1, 0
        else:
            column += 1
    return line, column


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
