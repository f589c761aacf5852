"""Two runs at once share a machine: threads sleep soon, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).resolve().parent
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# What the environment was as the first part of torch came, which loads OpenMP.
AS_TORCH_LOADS = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print({name: os.environ[name] for name in %r if name in os.environ})
            raise SystemExit
sys.meta_path.insert(0, Watch())
import %s
"""


def environment(**settings: str) -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name not in NAMES} | settings


@pytest.mark.parametrize("program", ["cli; cli.main(['sample'])", "benchmarks.job", "demo.train"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"KMP_BLOCKTIME": "infinite"}, {"KMP_BLOCKTIME": "infinite"}),
    ],
    ids=str,
)
def test_a_short_wait_is_set_before_torch_loads_and_a_setting_of_the_users_stays(program, given, expected):
    script = AS_TORCH_LOADS % (NAMES, program)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(**given), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(expected)


@pytest.mark.slow
def test_two_runs_at_once_take_at_most_two_and_a_half_times_as_long_as_one(tmp_path):
    def seconds(runs: int) -> float:
        start = time.perf_counter()
        processes = [
            subprocess.Popen(
                [sys.executable, str(ROOT / "cli.py"), "generate", "--output", str(tmp_path / str(number))],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(runs)
        ]
        assert [process.wait(timeout=600) for process in processes] == [0] * runs
        return time.perf_counter() - start

    seconds(1)
    turns = [(seconds(1), seconds(2)) for _ in range(3)]
    ratio = sorted(two / one for one, two in turns)[1]
    assert ratio <= 2.5, turns
