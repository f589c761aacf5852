"""Train the embedded demonstration weights: ``python -m demo.train``.

From scratch, or from ``--start``: drawn tissue, mask images, crops of the example image and, where their folders are
given, of a real Ki67 field and of real nuclei. The result is a demonstration, not a model of tissue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch.multiprocessing
from torch import Tensor

from demo.data import HELD_OUT, LARGE, LARGE_SIDE, SIDE, TRAIN, Dataset, load_dataset
from demo.export import export
from demo.latents import prepare
from demo.losses import PatchDiscriminator
from demo.real import read_sources
from demo.train_decoder import train_decoder
from demo.train_unet import DEMO_TEXT, DEMO_UNET, Networks, UNetTraining, train_unet
from demo.train_vae import DEMO_VAE, DecoderTraining, VAETraining, train_vae
from demo.training import load_checkpoint, start_worker, with_prefix
from model import load
from model.vae import VAE

_TURNS = 2


def main() -> None:
    """Parse the arguments, make the data, start the workers."""
    args = _parser().parse_args()
    _datasets(args)
    for part in ("vae", "unet", "decoder") if args.part == "all" else (args.part,):
        meeting_point = args.out / f"meeting-{part}"
        meeting_point.unlink(missing_ok=True)
        if args.workers == 1:
            _work(0, args, part, meeting_point)
        else:
            torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
                _work, (args, part, meeting_point), nprocs=args.workers
            )
        meeting_point.unlink(missing_ok=True)
    print(f"weights in {args.out / 'export'}; copy them to demo/weights")


def _datasets(args: argparse.Namespace) -> tuple[Dataset, Dataset, Dataset]:
    """What is trained on, what is held out, and large images to train on."""
    sources = read_sources(args.example, args.openslide, args.nuclei)
    data = args.out / "data"
    return (
        load_dataset(data / "train", sources, TRAIN, SIDE, 0, held_out=False),
        load_dataset(data / "held_out", sources, HELD_OUT, SIDE, 1, held_out=True),
        load_dataset(data / "large", sources, LARGE, LARGE_SIDE, 2, held_out=False),
    )


def _work(rank: int, args: argparse.Namespace, part: str, meeting_point: Path) -> None:
    worker = start_worker(rank, args.workers, meeting_point, args.threads)
    train, held_out, large = _datasets(args)
    torch.manual_seed(0)
    vae, networks = VAE(DEMO_VAE), Networks(DEMO_UNET, DEMO_TEXT)
    if args.start is not None:
        started = load(args.start)
        vae.load_state_dict(started.vae.state_dict())
        networks.unet.load_state_dict(started.unet.state_dict())
        networks.text_encoder.load_state_dict(started.text_encoder.state_dict())
    vae, networks = vae.to(worker.device), networks.to(worker.device)
    if part == "vae":
        train_vae(vae, VAETraining(args.minutes_vae), train, held_out, args.out, worker)
        return
    tensors = _checkpoint(args.out, "vae")
    vae.load_state_dict(with_prefix(tensors, "vae."))
    vae, latents = prepare(vae, train, large, _TURNS, args.out, worker)
    if part == "unet":
        train_unet(networks, UNetTraining(args.minutes_unet), latents, vae, args.out, worker)
        return
    discriminator = PatchDiscriminator().to(worker.device)
    discriminator.load_state_dict(with_prefix(tensors, "discriminator."))
    train_decoder(vae, discriminator, DecoderTraining(args.minutes_decoder), train, held_out, args.out, worker)
    if worker.first:
        networks.load_state_dict(with_prefix(_checkpoint(args.out, "unet"), "average."))
        export(args.out / "export", networks.unet, vae, networks.text_encoder)


def _checkpoint(folder: Path, part: str) -> dict[str, Tensor]:
    path = folder / f"{part}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not trained yet; run `python -m demo.train {part}` first")
    return load_checkpoint(path)[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument(
        "part", nargs="?", default="all", choices=("vae", "unet", "decoder", "all"), help="what to train (default all)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("output/demo"), help="for data, checkpoints, logs, pictures (output/demo)"
    )
    parser.add_argument("--start", type=Path, help="weights to go on from, such as demo/weights (default: none)")
    parser.add_argument("--example", type=Path, default=Path("examples/ihc.png"), help="the real image")
    parser.add_argument("--openslide", type=Path, help="folder with OS-2-ndpi.png, OS-2-vsi.png, OS-1-detail.png")
    parser.add_argument("--nuclei", type=Path, help="folder with images/ and masks/ of DSB 2018, the coloured ones")
    parser.add_argument("--minutes-vae", type=float, default=60.0, help="training time (default 60)")
    parser.add_argument("--minutes-unet", type=float, default=120.0, help="training time (default 120)")
    parser.add_argument("--minutes-decoder", type=float, default=10.0, help="training time (default 10)")
    parser.add_argument("--workers", type=int, default=2, help="processes; 1 with a GPU (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process (default 1)")
    return parser


if __name__ == "__main__":
    main()
