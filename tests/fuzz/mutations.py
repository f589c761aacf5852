"""Hostile input by seed: bytes, JSON and text that no program wrote. `make fuzz` takes more seeds of the same kind."""

from __future__ import annotations

import json
import os
import random
from typing import Any

TEXTS = (
    "",
    " ",
    "-",
    "--",
    "=",
    ",",
    "0",
    "-1",
    "1e999",
    "-1e300",
    "nan",
    "inf",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "1_000",
    "١٢",
    "²",
    "1:2:3",
    "a=b=c",
    "\x1b[2K\rerror: all is well",
    "two\nlines",
    "nul\x00byte",
    "\udcff",
    "\u202eright to left",
    "ü",
    "x" * 5000,
    "[" * 5000,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**6,
    10**30,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": {}},
    *TEXTS,
)


def seeds(count: int) -> range:
    """``count`` seeds, or ``FUZZ_ROUNDS`` times as many."""
    return range(count * int(os.environ.get("FUZZ_ROUNDS", "1")))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """``data`` with bits flipped, ranges lost, doubled, zeroed or exchanged, cut short, or with bytes put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice((1, 2, 4, 64, 1024)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[start:stop]
        elif kind == 2:
            changed[start:start] = changed[start:stop]
        elif kind == 3:
            changed[start:stop] = bytes(stop - start)
        elif kind == 4:
            changed[start:stop] = b"\xff" * (stop - start)
        elif kind == 5:
            del changed[start:]
        else:
            changed[start:start] = rng.randbytes(rng.choice((1, 4, 64)))
    return bytes(changed)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A copy of ``value`` with one node of it replaced by a hostile one, lost, or under a hostile name."""
    copy = json.loads(json.dumps(value))
    node, parents = copy, []
    while isinstance(node, dict | list) and node and (not parents or rng.random() < 0.8):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        parents.append((node, key))
        node = node[key]
    if not parents or rng.random() < 0.02:
        return rng.choice(VALUES)
    holder, key = parents[-1]
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return copy


def json_bytes(value: Any) -> bytes:
    """JSON as Python's reader takes it back: lone surrogates as bytes that are no UTF-8, NaN and infinity by name."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
