"""Group normalisation with SiLU: `api` checks the arguments, `reference`, `torch` and `triton` compute."""
