"""How long the attention kernel should take on an H100, judged by its machine code: no GPU is needed.

    python -m benchmarks estimate

The code is built for sm_90 and played by `benchmarks.scheduler`. Differences between builds are firmer than the figures
themselves, which are for times without the launch; the GPU's own go beside them in `python -m benchmarks goals`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import BENCHMARKS
from benchmarks.machine_code import read_code
from benchmarks.record import COMPARABLE, RESULTS
from benchmarks.scheduler import microseconds

MULTIPROCESSORS = 132
SHAPES = {40: 4096, 80: 1024, 160: 256}
"""Head width and positions of SD-1.5's swapped layers at 512×512 px."""
HEADS, CLASSES = 8, 2
ESTIMATES = RESULTS / "estimates.json"


def estimate(width: int, *, classes: int) -> dict[str, float]:
    """Attention with contrast of `HEADS` heads at a head width of `SHAPES`, statistics if there are ``classes``."""
    # Not every machine that has results to show has Triton.
    from kernels.cross_image_attention.tiles import choose_tiles
    from tests.kernels.builds import build_attention, build_merging

    positions = SHAPES[width]
    tiles = choose_tiles(width, 2, 90, MULTIPROCESSORS, HEADS, positions)
    built = build_attention(width, "float16", tiles, 90, statistics=classes > 0, sass="hex")
    code = read_code(built.sass)
    first, second = code.product_loops()
    trips = {first[0]: positions // tiles.first_keys(contrast=True), second[0]: positions // tiles.block_n}
    trips |= {loop[0]: classes for loop in code.loops() if loop not in (first, second)}
    outer = [a for a in code.loops() if any(a[0] < b[0] and b[1] < a[1] for b in code.loops())]
    trips |= {loop[0]: 1 for loop in outer}
    blocks = -(-HEADS * positions // tiles.block_m // MULTIPROCESSORS)
    times = microseconds(code, trips, blocks, tiles.num_warps // 4)
    if classes:
        merging = read_code(build_merging(width, 90, sass="hex").sass)
        steps = {
            loop[0]: max(1, positions // 16 // (8192 // (1 << (width - 1).bit_length()))) for loop in merging.loops()
        }
        times = {name: times[name] + time for name, time in microseconds(merging, steps, 1, 2).items()}
    return times


def beside_measured(estimates: Path, results: Path) -> list[str]:
    """Lines that show each estimate of the file beside the GPU's latest row of the same kernel; none without rows."""
    if not estimates.is_file() or not results.is_file():
        return []
    measured = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["what"] == "attention" and row["times_compare"] == COMPARABLE and row["shape"]["batch"] == 1:
            shape = row["shape"]
            measured[row["impl"], shape["heads"], shape["tokens"], shape["width"]] = row["p50"], row["device"]
    lines = []
    for each in json.loads(estimates.read_text(encoding="utf-8"))["rows"]:
        impl = "ours, with statistics" if each["classes"] else "ours"
        shape = each["heads"], each["positions"], each["width"]
        found = measured.get((impl, *shape))
        if found is not None:
            time, device = 1e6 * found[0], found[1]
            middle = each["us"]["middle"]
            lines.append(
                f"attention {shape}, {impl}: estimated {middle} µs, {time:.1f} on {device}: {time / middle:.2f}"
            )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Estimate every shape, print the table and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks estimate", description=BENCHMARKS["estimate"][1])
    parser.add_argument("--output", type=Path, default=ESTIMATES, help="JSON to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    import triton

    rows = []
    for width, positions in SHAPES.items():
        for classes in (0, CLASSES):
            times = {name: round(time, 1) for name, time in estimate(width, classes=classes).items()}
            rows.append({"heads": HEADS, "positions": positions, "width": width, "classes": classes, "us": times})
            says = f"({HEADS}, {positions}, {width}), {f'{classes} classes' if classes else 'plain'}"
            print(says, ", ".join(f"{name} {time} µs" for name, time in times.items()), flush=True)
    content = {"chip": "H100, estimated", "triton": triton.__version__, "rows": rows}
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
