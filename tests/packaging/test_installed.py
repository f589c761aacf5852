"""The program as pip installs it, from the wheel and editable, alone and beside Hugging Face's package `kernels`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.packaging.environments import QUICK, Environment, copy_sources, lend_packages

pytestmark = pytest.mark.package

# Without -P the folder that is built comes first, and setuptools asks its `kernels` for what it expects of theirs.
BUILD = (
    *(sys.executable, "-P", "-c"),
    "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])",
)
THEIRS_ALONE = "import kernels; kernels.get_kernel; print(kernels.__file__)"
BOTH = """
import sys
import stainloom
assert "torch" not in sys.modules, "the package itself costs nothing"
import kernels as theirs
from stainloom import commands, imaging, kernels, model
from stainloom.sampler.series import generate
assert callable(theirs.get_kernel) and not hasattr(theirs, "masked_adain")
assert callable(kernels.masked_adain) and not hasattr(kernels, "get_kernel")
assert not {"cli", "commands", "model", "imaging", "sampler", "demo"} & set(sys.modules)
assert len(model.tokenizer.read_merges()) == 48894
assert issubclass(model.CheckpointError, model.errors.CheckpointError)
"""


@pytest.fixture(scope="module")
def lent(tmp_path_factory):
    return lend_packages(tmp_path_factory.mktemp("lent") / "packages")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Sources for editable installs, which write into them."""
    return copy_sources(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel, and another by way of a source distribution; the sources of both are gone."""
    folder = tmp_path_factory.mktemp("built")
    sources = copy_sources(folder / "sources")
    # What an older build left behind does not get in.
    (sources / "build" / "lib" / "kernels").mkdir(parents=True)
    (sources / "build" / "lib" / "kernels" / "__init__.py").touch()
    for kind in ("wheel", "sdist"):
        subprocess.run([*BUILD, kind, folder / kind], cwd=sources, check=True, capture_output=True)
    with tarfile.open(next((folder / "sdist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    subprocess.run([*BUILD, "wheel", folder / "again"], cwd=unpacked, check=True, capture_output=True)
    shutil.rmtree(sources)
    shutil.rmtree(unpacked)
    return [next((folder / kind).glob("*.whl")) for kind in ("wheel", "again")]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Hugging Face's wheel, or where no index can be reached one that has its name."""
    folder = tmp_path_factory.mktemp("theirs")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "kernels"]
    if subprocess.run(command, capture_output=True, timeout=120).returncode != 0:
        _write_stand_in(folder / "kernels-0.0.1-py3-none-any.whl")
    return next(folder.glob("kernels-*.whl"))


def _write_stand_in(path: Path) -> None:
    about = "kernels-0.0.1.dist-info"
    files = {
        "kernels/__init__.py": "def get_kernel(name):\n    return name\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: kernels\nVersion: 0.0.1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"]))


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def top_level(environment: Environment) -> set[str]:
    (site,) = environment.folder.glob("lib/python*/site-packages")
    return {entry.name for entry in site.iterdir() if not entry.name.endswith((".dist-info", ".pth"))}


def make_image(environment: Environment, folder: Path, *program: str) -> Path:
    environment.run(*program, "generate", "--device", "cpu", "--output", "out", *QUICK, at=folder)
    return folder / "out" / "target_a.png"


def test_the_wheel_has_one_folder_and_all_that_the_program_needs(built):
    wheels = [zipfile.ZipFile(path) for path in built]
    names = wheels[0].namelist()
    assert {name.split("/")[0].removesuffix("-0.1.0.dist-info") for name in names} == {"stainloom"}
    (top,) = (name for name in names if name.endswith("top_level.txt"))
    assert wheels[0].read(top).decode().split() == ["stainloom"]
    page = "evaluation/review/page/page.html"
    for file in ("__init__.py", "__main__.py", "examples/small/target_a.png", "demo/weights/model_index.json", page):
        assert f"stainloom/{file}" in names
    assert {name.split("licenses/")[1] for name in names if "licenses/" in name} == {
        "LICENSE",
        "model/data/LICENSE-CLIP-BPE.txt",
    }
    assert not [name for name in names if "tests" in name or "benchmarks" in name or "demo/train" in name]
    contents = [{name: wheel.read(name) for name in wheel.namelist()} for wheel in wheels]
    assert contents[0] == contents[1], "by way of a source distribution the wheel is the same"


def test_the_wheel_alone_makes_images_anywhere(built, lent, tmp_path, elsewhere):
    environment = Environment.make(tmp_path / "environment", lent)
    environment.pip("install", "--quiet", "--no-index", str(built[0]))
    assert top_level(environment) == {"stainloom"}

    image = make_image(environment, elsewhere, "stainloom")
    pixels = np.array(Image.open(image))
    command = environment.run("stainloom", "show", str(image), at=elsewhere)
    assert command.startswith("stainloom generate ")
    image.unlink()
    environment.run("sh", "-c", command, at=elsewhere)
    np.testing.assert_array_equal(np.array(Image.open(image)), pixels)

    assert environment.run("stainloom", "generate", "--help", at=elsewhere).startswith("usage: stainloom generate ")
    as_module = environment.run("python", "-m", "stainloom", "show", str(image), at=elsewhere)
    assert as_module == f"python -m {command}"


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_the_wheel_and_hugging_faces_kernels_leave_each_other_alone(order, built, theirs, lent, tmp_path, elsewhere):
    environment = Environment.make(tmp_path / "environment", lent)
    wheels = [built[0], theirs] if order == "ours first" else [theirs, built[0]]
    for wheel in wheels:
        environment.pip("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    assert top_level(environment) == {"stainloom", "kernels"}
    environment.run("python", "-c", BOTH, at=elsewhere)

    first = "stainloom" if order == "ours first" else "kernels"
    environment.pip("uninstall", "--quiet", "--yes", first)
    if first == "stainloom":
        environment.run("python", "-c", THEIRS_ALONE, at=elsewhere)
        environment.run("python", "-c", "import stainloom", at=elsewhere, code=1)
    else:
        environment.run("python", "-c", THEIRS_ALONE, at=elsewhere, code=1)
        make_image(environment, elsewhere, "stainloom")


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_an_editable_install_and_hugging_faces_kernels_leave_each_other_alone(
    order, clone, theirs, lent, tmp_path, elsewhere
):
    environment = Environment.make(tmp_path / "environment", lent)
    ours = ["--no-build-isolation", "--editable", str(clone)]
    for what in (ours, [str(theirs)]) if order == "ours first" else ([str(theirs)], ours):
        environment.pip("install", "--quiet", "--no-deps", "--no-index", *what)
    assert {name for name in top_level(environment) if not name.startswith("__")} == {"kernels"}
    environment.run("python", "-c", THEIRS_ALONE, at=elsewhere)
    for part in ("model", "cli", "commands", "imaging", "sampler", "demo", "distribution"):
        environment.run("python", "-c", f"import {part}", at=elsewhere, code=1)
    environment.run("python", "-c", "from kernels import masked_adain; import model", at=clone)
    image = make_image(environment, elsewhere, "stainloom")
    shown = environment.run("python", "-m", "stainloom", "show", str(image), at=elsewhere)
    assert shown.startswith("python -m stainloom generate ")

    first = "stainloom" if order == "ours first" else "kernels"
    environment.pip("uninstall", "--quiet", "--yes", first)
    if first == "stainloom":
        environment.run("python", "-c", THEIRS_ALONE, at=elsewhere)
    else:
        environment.run("stainloom", "--version", at=elsewhere)
        environment.run("python", "-c", THEIRS_ALONE, at=elsewhere, code=1)
