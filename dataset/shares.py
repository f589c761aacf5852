"""Which share of a plan this process makes: all, or the i-th of n by torchrun, Slurm or an option."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset.plan import Unit
from imaging.errors import InputError
from imaging.rawfile import shown


@dataclass(frozen=True)
class Share:
    """The ``index``-th of ``count``, from 0. ``local`` is its place among the ``neighbours`` on its machine, itself
    included, with which it shares that machine's memory. ``engine`` says who asked.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    neighbours: int = 1
    engine: str = "one process"

    def of(self, units: Sequence[Unit]) -> list[Unit]:
        """Every ``count``-th unit: shares of equal size, and none is made twice."""
        return list(units[self.index :: self.count])


def share_of(text: str | None, environment: Mapping[str, str] | None = None) -> Share:
    """``I/N`` as an option gives it, else what torchrun's or Slurm's environment says, else everything.

    Raises:
        InputError: text or an environment that is no share.
    """
    known = os.environ if environment is None else environment
    if text is not None:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"`shard` {shown(text)}: write I/N, from 1/N to N/N")
        return Share(int(found[1]) - 1, int(found[2]), engine=f"share {text}")
    for engine, names in (
        ("torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE")),
        ("Slurm", ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NNODES")),
    ):
        if names[0] in known and names[1] in known:
            values = [known.get(name, default) for name, default in zip(names, "0101", strict=True)]
            whole = all(re.fullmatch(r"[0-9]{1,6}", value) for value in values)
            if not whole or int(values[0]) >= int(values[1]) or int(values[3]) < 1:
                given = ", ".join(f"{name}={shown(value)}" for name, value in zip(names, values, strict=True))
                raise InputError(f"{engine}: {given} is no share of the work; unset these variables, or mend them")
            index, count, local, machines = (int(value) for value in values)
            return Share(index, count, local, -(-count // machines), engine)
    return Share()
