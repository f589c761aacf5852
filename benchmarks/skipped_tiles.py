"""Which share of the second pass's tiles can be left out, exactly, on the latents of a real run.

    python -m benchmarks.skipped_tiles [--weights PATH]

Counts on any device, without the Triton kernel: a tile must be visited if one of its probabilities lies above
(1 - 1/contrast)/N. The kernel's own count, which allows for rounding, is at most slightly higher.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import model
from benchmarks.record import ROOT
from commands.recommended import read_recommended
from imaging.images import read_image
from imaging.labels import read_label_set
from model.transformer import Attention, LayerKVSource
from sampler.inputs import TransferInputs
from sampler.series import generate
from sampler.settings import choose

EXAMPLE = ROOT / "examples" / "small"
TILES = ((64, 64), (128, 64), (64, 32))  # queries x keys, as in kernels.cross_image_attention.tiles


def visited(q: Tensor, k: Tensor, contrast: float, rows: int, columns: int) -> tuple[int, int]:
    """Tiles of rows x columns that must be visited, and all: q [B, H, Nq, D], k [B or 1, H, Nk, D]."""
    p = torch.softmax(q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)  # [B, H, Nq, Nk]
    reaches = (p > (1 - 1 / contrast) / k.shape[2]).float()
    by_tile = F.max_pool2d(reaches, (rows, columns), ceil_mode=True)  # [B, H, blocks, tiles]
    return int(by_tile.sum()), by_tile.numel()


def main() -> int:
    """Make one image and print the shares by number of tokens and tile."""
    parser = argparse.ArgumentParser(description="Share of second-pass tiles that the contrast lets us leave out.")
    parser.add_argument("--weights", default=str(ROOT / "demo" / "weights"))
    parser.add_argument("--example", type=Path, default=EXAMPLE, help="folder of ihc.png, ihc_mask.png, target_a.png")
    arguments = parser.parse_args()
    counts: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, source = inputs
        if not isinstance(source, LayerKVSource) or not isinstance(module, Attention) or source.contrast <= 1:
            return
        q, k = module.split(module.to_q(x)), module.keys_values(source.tokens).key
        for rows, columns in TILES:
            needed, tiles = visited(q, k, source.contrast, rows, columns)
            counts[q.shape[2], rows, columns][0] += needed
            counts[q.shape[2], rows, columns][1] += tiles

    loaded = model.load(arguments.weights)
    for module in loaded.unet.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(count)
    settings = choose("winter", read_recommended(Path(arguments.weights)))
    folder: Path = arguments.example
    labels = read_label_set((folder / "ihc_mask.png", folder / "target_a.png"), None)
    patch = TransferInputs(read_image(folder / "ihc.png"), labels.maps[0], labels.maps[1], len(labels.classes))
    for _ in generate(loaded, patch, settings, seed=0, impl="torch"):
        pass
    print("tokens  tile      skipped")
    for (tokens, rows, columns), (needed, tiles) in sorted(counts.items()):
        print(f"{tokens:>6}  {rows:>3}x{columns:<4}  {1 - needed / tiles:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
