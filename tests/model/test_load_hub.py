"""Hub ids: which files are asked for, and what happens without the hub. No test opens a connection."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

import model
from tests.model.checkpoints import copy_folder

ROOT = Path(__file__).parents[2]
REPO = "someone/small-model"
FILES = [
    ".gitattributes",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "unet/config.json",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def offline(repo: str) -> list[str]:
    raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")


def unreachable(repo: str) -> list[str]:
    raise HTTPError("no route to host")


def refusing(error: type[RepositoryNotFoundError]) -> Callable[[str], list[str]]:
    def list_files(repo: str) -> list[str]:
        raise error.__new__(error)

    return list_files


def set_hub(
    monkeypatch: pytest.MonkeyPatch, list_files: Callable[[str], list[str]], cached: Path | None = None
) -> list[list[str]]:
    """Put a hub in place of the real one; returns the lists of files asked of it."""
    asked: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(cached)

    def look(repo: str, name: str) -> str | None:
        return None if cached is None else str(cached / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo: list_files(repo))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    return asked


def cache(written: Path, home: Path) -> Path:
    """The model in a hub cache, as huggingface_hub lays it out."""
    storage = home / "hub" / "models--someone--small-model"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("0" * 40)
    return copy_folder(written, storage / "snapshots" / ("0" * 40))


def load_offline(home: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import model\n"
        f"try: print(model.load({REPO!r}).name)\n"
        "except model.CheckpointError as error: print('refused', error)"
    )
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)


def test_only_the_needed_files_are_downloaded(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set_hub(monkeypatch, lambda repo: FILES, written)
    loaded = model.load(REPO)
    assert loaded.name == REPO
    unneeded = {".gitattributes", "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors"}
    assert [sorted(patterns) for patterns in asked] == [sorted(set(FILES) - unneeded)]


@pytest.mark.parametrize("failure", [offline, unreachable, refusing(RepositoryNotFoundError)])
def test_without_the_hub_the_cache_serves(
    failure: Callable[[str], list[str]], written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_hub(monkeypatch, failure, written)
    assert model.load(REPO).name == REPO


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (offline, "not in the local Hugging Face cache, and the hub cannot be reached (OfflineModeIsEnabled): run `hf"),
        (
            unreachable,
            "not in the local Hugging Face cache, and the hub cannot be reached (HTTPError): run `hf download",
        ),
        (
            refusing(RepositoryNotFoundError),
            "no such file or folder, and no such model on the hub that you may read: check the name",
        ),
        (
            refusing(GatedRepoError),
            "no such file or folder, and no such model on the hub that you may read: check the name",
        ),
    ],
)
def test_without_hub_and_cache_the_fix_is_told(
    failure: Callable[[str], list[str]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_hub(monkeypatch, failure)
    with pytest.raises(model.CheckpointError) as caught:
        model.load(REPO)
    assert f"{REPO}: {reason}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_existing_path_comes_before_a_hub_id(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set_hub(monkeypatch, lambda repo: FILES)
    (tmp_path / "someone").mkdir()
    copy_folder(written, tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    assert model.load(REPO).name == "small-model"
    assert not asked


def test_the_real_cache_is_read_offline(written: Path, tmp_path: Path) -> None:
    cache(written, tmp_path)
    assert load_offline(tmp_path).stdout.strip() == REPO


def test_an_empty_real_cache_is_told_offline(tmp_path: Path) -> None:
    said = load_offline(tmp_path).stdout
    assert said.startswith(f"refused {REPO}: not in the local Hugging Face cache")
    assert f"hf download {REPO}" in said


def test_an_incomplete_real_cache_is_told_offline(written: Path, tmp_path: Path) -> None:
    snapshot = cache(written, tmp_path)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "vae: holds no diffusion_pytorch_model.safetensors" in load_offline(tmp_path).stdout


def test_import_of_the_loader_starts_no_hub_client() -> None:
    program = "import sys, model; assert 'huggingface_hub' not in sys.modules and not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", f"import torch; {program}"], cwd=ROOT, check=True)
    assert torch is not None
