"""Group normalisation with SiLU: `api` checks the arguments, `torch` and `triton` compute."""
