"""How long a processor's threads wait for each other, which has to be said before PyTorch is loaded."""

from __future__ import annotations

import os

DEFAULTS = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
"""For GNU's OpenMP in turns of a waiting loop, tenths of a millisecond; for LLVM's and Intel's in milliseconds."""

_SETTINGS = ("OMP_WAIT_POLICY", *DEFAULTS)


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon after the end of a parallel region, unless the user's environment says otherwise.

    By default they go on spinning for milliseconds. A network has hundreds of regions a step; where another program
    holds the core that one thread of a region needs, the others spin its whole time slice away, in every region: two
    runs on two cores took forty times as long as one. Reads and sets the environment of this process and its children;
    without effect once PyTorch is loaded.
    """
    if not any(name in os.environ for name in _SETTINGS):
        os.environ.update(DEFAULTS)
