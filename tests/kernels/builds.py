"""Ahead-of-time builds of the kernels, and what they say about them: no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Literal

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.adain_features import tiles as features_tiles
from kernels.adain_features.triton import adain_features_kernel
from kernels.cross_image_attention.tiles import SKIPPING, Tiles
from kernels.cross_image_attention.triton_kernel import COMPARED_TILES, COUNTED_LABELS, attention_kernel
from kernels.cross_image_attention.triton_statistics import GROUP, MERGE_WARPS, merge_kernel, merging
from kernels.geglu import tiles as geglu_tiles
from kernels.geglu.triton import geglu_kernel
from kernels.group_norm.tiles import choose_group_tiles, power_of_two
from kernels.group_norm.triton_kernels import group_moments_kernel, group_norm_kernel, group_output_kernel
from kernels.head_widths import split_width
from kernels.masked_adain import tiles as latents_tiles
from kernels.masked_adain.triton import masked_adain_kernel

TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
INTEGER_POINTERS = {
    "labels_ptr": "*i64",
    "query_labels_ptr": "*i64",
    "key_labels_ptr": "*i64",
    "z_labels_ptr": "*i64",
    "source_labels_ptr": "*i64",
    "query_count_ptr": "*i64",
    "key_count_ptr": "*i64",
    "tile_lists_ptr": "*i32",
    "visited_ptr": "*i32",
}
DATA = {f"{name}_ptr" for name in ("q", "k", "v", "out", "x", "z", "source", "weight", "bias", "projected")}
FLOATS = {"qk_scale", "contrast", "eps"}
# Strides of images and rows, not of heads: those are multiples of a head's width.
ALIGNED_STRIDES = re.compile(r"stride_(q|k|v|o|x|z|s|ql|kl|l|zl|sl)(z|b|m|n|p)")
# Sizes and strides that are multiples of 16 at SD-1.5's shapes.
ALIGNED_SIZES = frozenset({"P", "chunk_size", "N", "stride_xp", "stride_op", "stride_xc", "stride_oc", "stride_pm"})
Sass = bool | Literal["hex"]
"""Whether machine code is wanted, and whether with its bits."""
ITEMSIZES = {"float16": 2, "bfloat16": 2, "float32": 4}


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
    sass: Sass,
    aligned_sizes: frozenset[str] = frozenset(),
    aligned_strides: re.Pattern[str] = ALIGNED_STRIDES,
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
        elif name == "tile_max_ptr":
            signature[name] = "*bf16"
        elif name.endswith("_ptr"):
            signature[name] = "*fp32"
        elif name in FLOATS:
            signature[name] = "fp32"
            aligned = False
        else:
            signature[name] = "i32"
            aligned = aligned_strides.fullmatch(name) is not None or name in aligned_sizes
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
        code = run("nvdisasm", "-hex" if sass == "hex" else "-c", cubin) if sass else ""
    return Build(
        ptx=made.asm["ptx"],
        sass=code,
        shared=made.metadata.shared,
        registers=int(usage["REG"]),
        stack=int(usage["STACK"]),
        local=int(usage["LOCAL"]),
    )


def build_attention(
    width: int,
    dtype: str,
    tiles: Tiles,
    architecture: int,
    *,
    even: bool = True,
    even_first: bool | None = None,
    contrast: bool = True,
    skip: bool = SKIPPING,
    statistics: bool = True,
    within_class: bool = False,
    sass: Sass = False,
    apart: bool = False,
) -> Build:
    """The attention kernel at one head width; with heads ``apart`` a row's stride is the width itself.

    ``even`` is whether keys fill whole tiles, ``even_first`` the same of the first pass (``even``, if not said).
    """
    align = 4 if dtype == "float32" else 8
    whole = even if even_first is None else even_first
    constants: dict[str, Any] = dict.fromkeys(("stride_qd", "stride_kd", "stride_vd", "stride_od"), 1)
    constants |= dict.fromkeys(("stride_qlm", "stride_kln"), 1)
    constants |= {
        "HEAD_DIM": width,
        "HEAD_DIM_0": split_width(width)[0],
        "HEAD_DIM_1": split_width(width)[1],
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "EVEN_N": even,
        "FIRST_N": tiles.first_keys(contrast=contrast),
        "EVEN_FIRST_N": whole,
        "CONTRAST": contrast,
        "SKIP": skip and contrast,
        "STATISTICS": statistics,
        "WITHIN_CLASS": within_class,
        "ALIGN": align,
        "ALIGN_OUT": align,
        "INPUT_PRECISION": "ieee",
        "EMULATE_BF16": False,
        "COMPARED": COMPARED_TILES,
        "COUNTED": COUNTED_LABELS,
        "GROUP": GROUP,
    }
    if not constants["SKIP"]:
        constants |= dict.fromkeys(("tile_max_ptr", "tile_lists_ptr", "visited_ptr"))
    if not within_class:
        constants["nonfinite_ptr"] = None
    if not statistics:
        scratch = ("partial_counts_ptr", "partial_moments_ptr")
        constants |= dict.fromkeys(("query_labels_ptr", "key_labels_ptr", *scratch))
    registers = tiles.registers(contrast=contrast, even=even and whole)
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, "maxnreg": registers}
    strides = re.compile(r"stride_[qkvo]z") if apart else ALIGNED_STRIDES
    return compiled(attention_kernel, constants, dtype, architecture, options, sass=sass, aligned_strides=strides)


def build_merging(width: int, architecture: int, *, sass: Sass = False) -> Build:
    """The kernel that merges the statistics' partials."""
    return compiled(merge_kernel, merging(width), "float16", architecture, {"num_warps": MERGE_WARPS}, sass=sass)


def build_adain(width: int, dtype: str, architecture: int) -> dict[str, Build]:
    """The kernels for AdaIN."""
    first, second = split_width(width)
    pieces = {
        "HEAD_DIM": width,
        "HEAD_DIM_0": first,
        "HEAD_DIM_1": second,
        "BLOCK_M": features_tiles.BLOCK_M,
        "ALIGN": 8,
    }
    pieces |= {"stride_xd": 1, "stride_lm": 1}
    no_emulation = {"EMULATE_BF16": False}
    return {
        "features": compiled(adain_features_kernel, pieces | no_emulation, dtype, architecture, {}, sass=False),
        "latents": compiled(
            masked_adain_kernel, {"BLOCK_P": latents_tiles.BLOCK_P} | no_emulation, dtype, architecture, {}, sass=False
        ),
    }


def build_group_norm(
    channels: int,
    side: int,
    dtype: str,
    architecture: int,
    *,
    channels_last: bool,
    batch: int = 1,
    silu: bool = True,
    multiprocessors: int = 132,
) -> dict[str, Build]:
    """The one kernel or the two that normalise 32 groups of a grid of side x side positions."""
    width, positions = channels // 32, side * side
    tiles = choose_group_tiles(
        batch, 32, width, positions, ITEMSIZES[dtype], channels_last=channels_last, multiprocessors=multiprocessors
    )
    unit = ("stride_xc", "stride_oc") if channels_last else ("stride_xp", "stride_op")
    shape = dict.fromkeys(unit, 1) | {
        "PROGRAM_GROUPS": tiles.groups,
        "GROUP_CHANNELS": width,
        "BLOCK_G": power_of_two(tiles.groups),
        "BLOCK_C": tiles.block_c,
        "BLOCK_P": tiles.block_p,
        "ALIGN": gcd(16, tiles.groups * width, channels),
    }
    written: dict[str, Any] = {"SILU": silu, "EMULATE_BF16": False}
    if tiles.chunk >= positions:
        one_tile = tiles.block_p >= positions and tiles.block_c >= tiles.groups * width
        kernels = {"one launch": (group_norm_kernel, written | {"ONE_TILE": one_tile})}
    else:
        chunks = -(-positions // tiles.chunk)
        kernels = {
            "moments": (group_moments_kernel, {}),
            "output": (group_output_kernel, written | {"BLOCK_CHUNKS": power_of_two(chunks)}),
        }
    made = {}
    for name, (kernel, constants) in kernels.items():
        constants = {key: value for key, value in (shape | constants).items() if key in kernel.arg_names}
        options = {"num_warps": tiles.num_warps, "maxnreg": tiles.maxnreg}
        made[name] = compiled(kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED_SIZES)
    return made


def build_geglu(dtype: str, architecture: int) -> Build:
    """GEGLU of contiguous rows."""
    constants = {"stride_pn": 1, "BLOCK_M": geglu_tiles.BLOCK_M, "BLOCK_N": geglu_tiles.BLOCK_N, "EMULATE_BF16": False}
    options = {"num_warps": geglu_tiles.NUM_WARPS}
    return compiled(geglu_kernel, constants, dtype, architecture, options, sass=False, aligned_sizes=ALIGNED_SIZES)
