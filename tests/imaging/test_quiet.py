"""What libraries write to the terminal from C is caught, and the terminal is always given back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imaging.quiet import captured_stderr

ROOT = Path(__file__).resolve().parents[2]


def test_what_c_code_writes_is_caught_as_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with captured_stderr() as said:
        os.write(2, b"first\n second\x80\n")
        assert said() == "first second\ufffd"
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_the_terminal_comes_back_after_an_error_and_after_nesting(capfd: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        with captured_stderr() as outer:
            with captured_stderr() as inner:
                os.write(2, b"inner")
                assert inner() == "inner"
            os.write(2, b"outer")
            assert outer() == "outer"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_threads_wait_for_each_other_and_leave_no_descriptor_open(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for _ in range(20):
            with captured_stderr() as said:
                os.write(2, b"x")
                assert said() == "x"

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not before or len(os.listdir("/proc/self/fd")) == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2), (0, 2)], ids=str)
def test_a_file_is_read_where_the_terminal_is_closed(closed: tuple[int, ...], tmp_path: Path) -> None:
    program = f"""
import os, sys
for number in {closed}: os.close(number)
from imaging.quiet import captured_stderr
for _ in range(3):
    with captured_stderr() as said:
        os.write(2, b"noise")
        caught = said()
    try:
        os.fstat(2)
        open_after = True
    except OSError:
        open_after = False
with open(sys.argv[1], "w") as file: file.write(f"{{caught}} {{open_after}}")
"""
    result = tmp_path / "result"
    subprocess.run([sys.executable, "-c", program, str(result)], cwd=ROOT, check=True, timeout=60)
    assert result.read_text() == "noise False"
