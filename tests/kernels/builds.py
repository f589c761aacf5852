"""Ahead-of-time builds of the kernels, and what they say about them: no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.adain_features.triton import adain_features_kernel
from kernels.cross_image_attention.tiles import Tiles
from kernels.cross_image_attention.triton_kernel import COMPARED_TILES, COUNTED_LABELS, attention_kernel
from kernels.cross_image_attention.triton_statistics import MERGED_TILES
from kernels.head_widths import split_width
from kernels.masked_adain.triton import masked_adain_kernel

TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
INTEGER_POINTERS = {
    "labels": "*i64",
    "query_labels": "*i64",
    "key_labels": "*i64",
    "z_labels": "*i64",
    "source_labels": "*i64",
    "query_count": "*i64",
    "key_count": "*i64",
    "tile_lists": "*i32",
    "visited": "*i32",
    "tickets": "*i32",
}
FLOAT_POINTERS = {"counts", "spoiled", "moments", "partials"}
DATA = {"q", "k", "v", "out", "x", "z", "source", "weight", "bias", "projected"}
FLOATS = {"exponent_scale", "contrast", "eps"}


@dataclass(frozen=True)
class Build:
    """One compiled kernel."""

    ptx: str
    sass: str
    shared: int  # bytes of one block
    registers: int
    stack: int  # bytes of one thread; more than 0 where registers spill
    local: int


def run(tool: str, *arguments: str | Path) -> str:
    """Output of one of the CUDA tools that come with Triton."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return subprocess.run([folder / tool, *arguments], check=True, capture_output=True, text=True).stdout


def compiled(
    kernel: Any,
    constants: dict[str, Any],
    dtype: str,
    architecture: int,
    options: dict[str, Any],
    *,
    sass: bool,
    aligned_sizes: frozenset[str] = frozenset(),
) -> Build:
    """Build as a launch would, with pointers, strides of rows and strides of images multiples of 16 bytes.

    ``aligned_sizes`` names further arguments that are multiples of 16.
    """
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        aligned = True
        if name in constants:
            signature[name] = "constexpr"
            aligned = False
        elif name in DATA:
            signature[name] = f"*{TYPES[dtype]}"
        elif name in INTEGER_POINTERS:
            signature[name] = INTEGER_POINTERS[name]
        elif name == "maxima":
            signature[name] = "*bf16"
        elif name in FLOAT_POINTERS or name.endswith(("_mean", "_variance")):
            signature[name] = "*fp32"
        elif name in FLOATS:
            signature[name] = "fp32"
            aligned = False
        else:
            signature[name] = "i32"
            aligned = name.endswith(("_batch", "_row")) or name in aligned_sizes
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options={"enable_fp_fusion": True} | options,
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        usage = dict(re.findall(r"(\w+):(\d+)", run("cuobjdump", "-res-usage", cubin)))
        code = run("nvdisasm", "-c", cubin) if sass else ""
    return Build(
        ptx=made.asm["ptx"],
        sass=code,
        shared=made.metadata.shared,
        registers=int(usage["REG"]),
        stack=int(usage["STACK"]),
        local=int(usage["LOCAL"]),
    )


def build(
    width: int,
    dtype: str,
    tiles: Tiles,
    architecture: int,
    *,
    even: bool = True,
    contrast: bool = True,
    skip: bool = True,
    statistics: bool = True,
    within_class: bool = False,
    sass: bool = False,
) -> Build:
    """The attention kernel at one head width."""
    align = 4 if dtype == "float32" else 8
    constants: dict[str, Any] = dict.fromkeys(("q_column", "k_column", "v_column", "out_column"), 1)
    constants |= dict.fromkeys(("query_label_row", "key_label_row"), 1)
    constants |= {
        "D": width,
        "FIRST": split_width(width)[0],
        "SECOND": split_width(width)[1],
        "ROWS": tiles.queries,
        "COLUMNS": tiles.keys,
        "EVEN": even,
        "CONTRAST": contrast,
        "SKIP": skip and contrast,
        "STATISTICS": statistics,
        "RESTRICT": within_class,
        "ALIGN": align,
        "OUT_ALIGN": align,
        "PRECISION": "ieee",
        "EMULATE": False,
        "COMPARED": COMPARED_TILES,
        "COUNTED": COUNTED_LABELS,
        "MERGED": MERGED_TILES,
    }
    if not constants["SKIP"]:
        constants |= dict.fromkeys(("maxima", "tile_lists", "visited"))
    if not within_class:
        constants["spoiled"] = None
    if not statistics:
        constants |= dict.fromkeys(("query_labels", "key_labels", "counts", "moments", "tickets"))
        constants |= {f"{side}_{name}": None for side in ("query", "key") for name in ("count", "mean", "variance")}
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "maxnreg": tiles.registers}
    return compiled(attention_kernel, constants, dtype, architecture, options, sass=sass)


def build_smaller_kernels(width: int, dtype: str, architecture: int) -> dict[str, Build]:
    """The kernels for AdaIN."""
    first, second = split_width(width)
    pieces = {"D": width, "FIRST": first, "SECOND": second, "ROWS": 64, "ALIGN": 8, "x_column": 1, "label_row": 1}
    no_emulation = {"EMULATE": False}
    return {
        "features": compiled(adain_features_kernel, pieces | no_emulation, dtype, architecture, {}, sass=False),
        "latents": compiled(masked_adain_kernel, {"BLOCK": 1024} | no_emulation, dtype, architecture, {}, sass=False),
    }
