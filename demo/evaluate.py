"""What the demonstration weights can do, in figures: ``python -m demo.evaluate``.

On held-out drawn slides and, where their folders are given, the held-out parts of the real images: what the autoencoder
rebuilds, how much it matters whose keys and values a borrowing layer sees, and how well images of the example fit
their label maps with the swap alone, AdaIN alone and both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.method import method_settings
from commands.places import EXAMPLE_CLASSES, SMALL
from commands.requests import GenerateRequest
from commands.threads import wait_briefly
from dataset.quality import Look, OriginModel, judge
from dataset.stain import box_mean, stain_densities
from demo.data import CAPTIONS, HELD_OUT, SIDE, Dataset, load_dataset
from demo.latents import paint
from demo.real import read_sources, threshold
from demo.stains import Pixels, other_stains, restain
from demo.train_vae import quality
from demo.training import Worker, to_tensor
from imaging.images import read_image
from imaging.labels import ClassMap, read_label_set
from model import StableDiffusion, load
from model.unet_blocks import KVSource
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.schedule import cumulative_alphas
from sampler.series import Result, generate_series
from sampler.settings import Settings
from sampler.tasks import GenerationTask

TIMES = (250, 450, 650)
PROMPT = 1  # of CAPTIONS, the program's own
WAYS: dict[str, dict[str, Any]] = {
    "swap alone": {"adain": "none"},
    "AdaIN alone": {"cross_attn_64": None, "cross_attn_32": None},
    "both": {},
}


def restained(data: Dataset) -> Dataset:
    """The tissue of ``data`` in stains of any hue, seeded."""
    tissue = data.of(*(kind for kind in set(data.kinds) if kind != "mask"))
    rng = np.random.default_rng(5)
    images = np.stack([restain(image, other_stains(rng)) for image in tissue.images])
    return Dataset(images, tissue.labels, tissue.kinds)


@torch.no_grad()
def borrowing(model: StableDiffusion, data: Dataset, share: float) -> dict[str, list[tuple[float, float, float]]]:
    """By kind, for each of `TIMES`: squared error of the noise with a partner's, a stranger's and the own keys.

    ``share`` is the map's in what is noised; 0 is the image alone, 1 the painted map. Strangers are of another slide:
    of drawn tissue another drawn one, of real tissue another kind.
    """
    context = model.text_encoder(model.tokenizer([CAPTIONS[PROMPT]]))
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    kinds = [kind if kind in ("field", "nuclei") else "drawn" for kind in data.kinds[::2]]
    pairs = [i for i, kind in enumerate(data.kinds[::2]) if kind != "mask"]
    clean = torch.cat([model.vae.encode(to_tensor(image[None], torch.device("cpu"))) for image in data.images])
    found: dict[str, list[list[tuple[float, float, float]]]] = {}
    for pair in pairs:
        others = [p for p in pairs if p != pair and (kinds[p] != kinds[pair] or kinds[pair] == "drawn")]
        stranger = clean[2 * int(rng.choice(others))]
        image, partner = clean[2 * pair], clean[2 * pair + 1]
        painted = model.vae.encode(paint(data.labels[2 * pair], np.random.default_rng(11)))[0]
        rows = []
        for t in TIMES:
            alpha_bar = cumulative_alphas()[t]
            signal, deviation = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
            noise = torch.randn(2, *image.shape, generator=generator)
            noisy = (signal * (share * painted + (1 - share) * image) + deviation * noise[0])[None]
            wanted = (noisy - signal * image) / deviation
            cond = model.unet.condition(context, t)

            def error(seen: Tensor | None) -> float:
                source = None
                if seen is not None:
                    features = model.unet.features((signal * seen + deviation * noise[1])[None], cond, (0, 1))  # noqa: B023
                    source = KVSource(features, contrast=1.67, impl="torch")
                eps = model.unet(noisy, cond, kv_source=source).eps  # noqa: B023
                return float((eps - wanted).square().mean())  # noqa: B023

            rows.append((error(partner), error(stranger), error(None)))
        found.setdefault(kinds[pair], []).append(rows)
    return {kind: [tuple(row) for row in np.mean(rows, axis=0).tolist()] for kind, rows in found.items()}


def brown(image: Pixels, least: float) -> np.ndarray:
    """Where the image [H, W, 3] is brown: DAB above ``least``, means over 13 pixels."""
    found: np.ndarray = box_mean(stain_densities(image)[..., 1], 6) > least
    return found


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks."""
    union = (found | wanted).sum()
    return float((found & wanted).sum() / union) if union else 1.0


def images_of(model: StableDiffusion, pairs: list[TransferInputs], settings: Settings, seeds: int = 1) -> list[Pixels]:
    """The images of some pairs, ``seeds`` of each, one after the other."""
    tasks = [GenerationTask(pair, seed) for pair in pairs for seed in range(seeds)]
    events = generate_series(model, tasks, settings, Execution(batch=2))
    return [event.image for event in events if isinstance(event, Result)]


def example(
    model: StableDiffusion, settings: Settings, ways: Iterable[str] = tuple(WAYS)
) -> Iterator[tuple[str, float, float, float]]:
    """Ways of the method on the example's targets: name, IoU of brown with the map, fidelity, separation (means)."""
    names = ("ihc_mask.png", "target_a.png", "target_b.png", "target_c.png")
    labels = read_label_set([SMALL / name for name in names], ClassMap.parse(EXAMPLE_CLASSES))
    image = read_image(SMALL / "ihc.png")
    pairs = [TransferInputs(image, labels.maps[0], target, 2) for target in labels.maps[1:]]
    origin = OriginModel.of(image, labels.maps[0], 2)
    least = threshold(box_mean(stain_densities(image)[..., 1], 6))
    yield "the real patch", overlap(brown(image, least), labels.maps[0] == 0), origin.classifier.dice, float("nan")
    for name in ways:
        changes = WAYS[name]
        rows = []
        for pair, made in zip(pairs, images_of(model, pairs, replace(settings, **changes)), strict=True):
            judged = judge(origin, Look.of(made), pair.target_labels)
            rows.append((overlap(brown(made, least), pair.target_labels == 0), judged.fidelity, judged.separation))
        iou, fidelity, separation = np.mean(rows, axis=0)
        yield name, float(iou), float(fidelity), float(separation)


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("demo/weights"), help="a diffusers folder")
    parser.add_argument("--out", type=Path, default=Path("output/demo"), help="where held-out images are kept")
    parser.add_argument("--example", type=Path, default=Path("examples/ihc.png"), help="the real image")
    parser.add_argument("--openslide", type=Path, help="as of demo.train")
    parser.add_argument("--nuclei", type=Path, help="as of demo.train")
    args = parser.parse_args()
    wait_briefly()
    model = load(args.weights)
    sources = read_sources(args.example, args.openslide, args.nuclei)
    data = load_dataset(args.out / "data" / "held_out", sources, HELD_OUT, SIDE, 1, held_out=True)
    worker = Worker(0, 1, torch.device("cpu"))
    for title, images in (("held out", data), ("held out, in stains of any hue", restained(data))):
        for kind, (decibels, drift) in quality(model.vae, images, worker).items():
            print(f"autoencoder, {title}, {kind}: {decibels:.2f} dB, mean colour off by {drift:.2f} levels")
    for share in (1.0, 0.6, 0.0):
        for kind, rows in borrowing(model, data, share).items():
            figures = "; ".join(
                f"t = {t}: {right:.4f}, {100 * (wrong / right - 1):+.0f} %, {100 * (own / right - 1):+.0f} %"
                for t, (right, wrong, own) in zip(TIMES, rows, strict=True)
            )
            print(f"error with a partner's keys, a stranger's, its own; map's share {share:g}, {kind}: {figures}")
    settings, _ = method_settings(GenerateRequest(weights=str(args.weights)))
    for name, iou, fidelity, separation in example(model, settings):
        print(f"example, {name}: IoU of brown {iou:.3f}, fidelity {fidelity:.3f}, separation {separation:.3f}")


if __name__ == "__main__":
    main()
