"""Fresh environments that borrow this one's packages, all but the program and whatever is called ``kernels``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NOT_LENT = ("stainloom", "__editable__", "kernels", "__pycache__", "_virtualenv")

QUICK = [
    "--steps",
    "4",
    "--skip-steps",
    "1",
    "--cross-attn-64",
    "1:3",
    "--cross-attn-32",
    "1:2",
    "--adain-range",
    "1:3",
]


def lend_packages(folder: Path) -> Path:
    """Links in ``folder`` to what is installed here. Nothing that pip does to a borrower can reach the originals."""
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith(_NOT_LENT):
                (folder / entry.name).symlink_to(entry)
    return folder


def copy_sources(folder: Path) -> Path:
    """The working tree as a clone would have it, changes included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, lent: Path) -> Environment:
        """A new one, with the packages that lie in ``lent``."""
        venv.create(folder, symlinks=True)
        made = cls(folder)
        inside = made.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", at=folder)
        Path(inside.strip(), "lent.pth").write_text(f"{lent}\n")
        return made

    def run(self, *command: str, at: Path, code: int = 0) -> str:
        """What ``command`` prints, started in the folder ``at``; its status must be ``code``."""
        # Nothing of the tests' own set-up may help: no path, no settings of Python's.
        around = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        around |= {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
        # A shell's look-up, so that PATH above counts.
        done = subprocess.run(
            ["/usr/bin/env", *command], cwd=at, env=around, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def pip(self, *arguments: str) -> None:
        """Run this environment's pip on the new one."""
        command = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
