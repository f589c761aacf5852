from __future__ import annotations

import os
from pathlib import Path

import pytest

from imaging.errors import InputError
from imaging.output import check_output_file, plan_outputs, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, error: BaseException) -> None:
    with replacing(path) as (partial,):
        partial.write_bytes(b"half")
        raise error


def test_single_image_gets_the_name_asked_for(tmp_path: Path) -> None:
    (only,) = plan_outputs(tmp_path / "new.png", ["t/target.png"], 1, [])
    assert (only.target, only.variant) == (0, 0)
    assert only.image == tmp_path / "new.png"
    assert only.panel == tmp_path / "new-panel.png"


def test_file_name_is_extended_by_target_and_variant(tmp_path: Path) -> None:
    planned = plan_outputs(tmp_path / "new.png", ["a.tif", "b.png"], 2, [])
    assert [item.image.name for item in planned] == ["new-a-1.png", "new-a-2.png", "new-b-1.png", "new-b-2.png"]
    assert [(item.target, item.variant) for item in planned] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [item.image.name for item in plan_outputs(tmp_path / "n.png", ["a.png"], 10, [])][::9] == [
        "n-01.png",
        "n-10.png",
    ]


def test_folder_holds_images_named_after_their_targets(tmp_path: Path) -> None:
    planned = plan_outputs(tmp_path / "deep" / "out.v1", ["x/slide.1 [x=0,y=0].png", "b.png"], 1, [])
    assert [item.image.name for item in planned] == ["slide.1 [x=0,y=0].png", "b.png"]
    assert all(item.image.parent == tmp_path / "deep" / "out.v1" for item in planned)
    assert names(tmp_path / "deep" / "out.v1") == []


def test_existing_folder_may_look_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.png").mkdir()
    (only,) = plan_outputs(tmp_path / "run.png", ["t.png"], 1, [])
    assert only.image == tmp_path / "run.png" / "t.png"


@pytest.mark.parametrize(
    "targets", [["a/t.png", "b/t.png", "c/T.tif"], ["t.png", "t-panel.png"], ["t.png", "u/t.png", "t_2.png"]]
)
def test_no_two_files_of_a_run_share_a_name(tmp_path: Path, targets: list[str]) -> None:
    planned = plan_outputs(tmp_path, targets, 1, [])
    files = [str(path).lower() for item in planned for path in (item.image, item.panel)]
    assert len(set(files)) == 2 * len(targets)


@pytest.mark.parametrize("name", ["a.jpg", "a.TIF", "a.bmp"])
def test_other_image_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: images are written as PNG"):
        plan_outputs(tmp_path / name, ["t.png"], 1, [])


def test_input_is_never_overwritten(tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"mask")
    os.link(mask, tmp_path / "hard.png")
    os.symlink(mask, tmp_path / "soft.png")
    for output in (mask, tmp_path, tmp_path / "hard.png", tmp_path / "soft.png", tmp_path / "x" / ".." / "mask.png"):
        with pytest.raises(InputError, match="is an input and would be overwritten"):
            plan_outputs(output, [mask], 1, ["elsewhere.png", mask])
    with pytest.raises(InputError, match=r"new-panel\.png: is an input"):
        plan_outputs(tmp_path / "new.png", [mask], 1, [tmp_path / "new-panel.png"])
    assert mask.read_bytes() == b"mask"


def test_earlier_result_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(b"older")
    assert plan_outputs(tmp_path / "new.png", ["t.png"], 1, ["t.png"])
    assert (tmp_path / "new.png").read_bytes() == b"older"


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "new.png", tmp_path / "file" / "out", Path("/proc/new.png")):
        with pytest.raises(InputError, match="not a folder to write into"):
            plan_outputs(output, ["t.png"], 1, [])
    assert names(tmp_path) == ["file"]


def test_folder_in_the_place_of_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.png").mkdir()
    with pytest.raises(InputError, match="a folder has the name of a result"):
        plan_outputs(tmp_path, ["t.png"], 1, [])


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    plan_outputs(tmp_path / "out", ["t.png"], 2, [])
    check_output_file(tmp_path / "out" / "z.safetensors", ["t.png"])
    assert names(tmp_path / "out") == []
    with pytest.raises(InputError, match="is an input"):
        check_output_file(tmp_path / "w.safetensors", [tmp_path / "w.safetensors"])


def test_nothing_to_name_is_a_programming_error(tmp_path: Path) -> None:
    for targets, variants in (([], 1), (["t.png"], 0)):
        with pytest.raises(ValueError, match="nothing to name"):
            plan_outputs(tmp_path, targets, variants, [])


def test_file_takes_its_name_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with replacing(path) as (partial,):
        partial.write_bytes(b"whole")
        assert not path.exists()
        assert partial.parent == tmp_path
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["a.bin"]


def test_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_error_removes_the_new_file_and_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error())
    assert names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_full_disk_is_an_input_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.bin: cannot be written \(No space left"):
        write_half(tmp_path / "a.bin", OSError(28, "No space left on device"))
    assert names(tmp_path) == []
