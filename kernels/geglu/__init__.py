"""GEGLU, the gated GELU of feed-forward layers: `api` checks the arguments, `torch` and `triton` compute."""
