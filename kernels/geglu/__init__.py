"""GEGLU, a gated GELU: `api` checks the arguments, `reference`, `torch` and `triton` compute."""
