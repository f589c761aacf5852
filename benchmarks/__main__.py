"""``python -m benchmarks`` lists the benchmarks, ``python -m benchmarks NAME …`` runs one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from benchmarks import BENCHMARKS


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark that the first of ``arguments`` names with the rest; without any, list them."""
    if arguments and arguments[0] in BENCHMARKS:
        function, _ = BENCHMARKS[arguments[0]]
        status: int = resolve_name(f"benchmarks.{function}")(arguments[1:])
        return status
    for name, (_, says) in BENCHMARKS.items():
        print(f"{name:<16}{says}")
    if arguments and arguments[0] not in ("-h", "--help"):
        print(f"no benchmark {arguments[0]!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
