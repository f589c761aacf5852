"""``python -m benchmarks`` lists the benchmarks, ``python -m benchmarks NAME …`` runs one."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def available() -> dict[str, str]:
    """The benchmarks by name, with the first line of what each says of itself. Imports none of them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark that the first of ``arguments`` names with the rest; without any, list them."""
    benchmarks = available()
    if arguments and arguments[0] in benchmarks:
        name = f"benchmarks.{arguments[0]}"
        sys.argv = [name, *arguments[1:]]
        runpy.run_module(name, run_name="__main__", alter_sys=True)  # raises SystemExit with the benchmark's status
        return 0
    for name, says in benchmarks.items():
        print(f"{name:<16}{says}")
    if arguments and arguments[0] not in ("-h", "--help"):
        print(f"no benchmark {arguments[0]!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
