"""What is validated or judged on is not known in training: slides, patients, images, origins of in-silico ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.segmentation.leakage import Known, independent, known, leaks
from evaluation.segmentation.mixture import REAL, Mixture
from evaluation.segmentation.settings import TrainingSettings
from imaging.errors import InputError
from tests.evaluation.segmented import blobs, write_labelled

HELD = Known("b.png", slide="s2", patient="p2", sha256="bb", masks=("mb",))
APART = Known("a.png", slide="s1", patient="p1", sha256="aa", masks=("ma",))
MADE = Known("m.png", slide="s1", patient="p1", sha256="cc", synthetic=True, origin="a.png", origin_sha256="aa")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slide": "s2"}, "slide s2"),
        ({"patient": "p2"}, "patient p2"),
        ({"sha256": "bb"}, "the same image file"),
        ({"synthetic": True, "origin_sha256": "bb", "origin": "elsewhere.png"}, "made from elsewhere.png"),
        ({"synthetic": True, "origin": "b.png"}, "made from b.png"),
        ({"synthetic": True, "target_sha256": "mb"}, "made for the label map"),
    ],
)
def test_each_way_to_leak_is_named(change: dict[str, object], said: str) -> None:
    leaking = Known(**{**APART.__dict__, **change})  # type: ignore[arg-type]
    (line,) = leaks([APART, leaking, MADE], [HELD], "test", targets=True)
    assert said in line
    assert "b.png of the test" in line


def test_what_is_apart_does_not_leak() -> None:
    same_name = Known("b.png", slide="s3", sha256="dd", synthetic=True, origin="b.png", origin_sha256="dd")
    assert leaks([APART, MADE, same_name, Known("b.png")], [HELD, Known("x.png")], "test", targets=True) == []


def test_in_silico_images_of_what_is_held_out_are_told_apart() -> None:
    others = [MADE, Known("n.png", synthetic=True, origin="b.png"), Known("o.png", synthetic=True, slide="s2")]
    assert independent(others, [HELD]) == [True, False, False]


def test_identical_files_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    one, two = (write_labelled(tmp_path / name, f"{name}.png", blobs(1), 1) for name in ("x", "y"))
    assert "the same image file" in leaks([known(one)], [known(two)], "validation")[0]


@pytest.mark.parametrize(
    ("real", "made", "share"), [(7, 21, None), (7, 21, 0.5), (5, 3, 0.9), (4, 9, 1.0), (4, 9, 0.0)]
)
def test_real_and_in_silico_windows_come_in_the_stated_ratio_at_every_moment(
    real: int, made: int, share: float | None
) -> None:
    mixture = Mixture(real, made, share, seed=3)
    drawn = [mixture.draw(number) for number in range(400)]
    wanted = real / (real + made) if share is None else share
    for count in range(1, 401):
        of_real = sum(kind == REAL for kind, _ in drawn[:count])
        assert abs(of_real - wanted * count) < 1 + 1e-9
    for kind, size in ((REAL, real), (1, made)):
        places = [place for each, place in drawn if each == kind]
        for first in range(0, len(places) - size + 1, size):
            assert sorted(places[first : first + size]) == list(range(size))
    if wanted not in (0.0, 1.0):
        assert drawn != [Mixture(real, made, share, seed=4).draw(number) for number in range(400)]


@pytest.mark.parametrize(("real", "made", "share"), [(0, 0, None), (0, 4, 0.5), (4, 0, 0.5)])
def test_a_ratio_of_what_is_not_there_is_refused(real: int, made: int, share: float | None) -> None:
    with pytest.raises(InputError):
        Mixture(real, made, share, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 48},
        {"size": 0},
        {"size": 2**40},
        {"steps": 0},
        {"batch_size": 0},
        {"batch_size": 3, "devices": 2},
        {"learning_rate": float("nan")},
        {"learning_rate": 0.0},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"real_share": float("nan")},
        {"real_share": 1.5},
        {"cache": float("inf")},
        {"precision": "int8"},
        {"patience": 0},
        {"seed": -1},
    ],
)
def test_settings_that_cannot_be_used_are_named(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(change))}`"):
        TrainingSettings(**change).check()  # type: ignore[arg-type]
