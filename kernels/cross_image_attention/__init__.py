"""Cross-image attention with contrast: `api` checks the arguments, `reference`, `torch` and `triton` compute."""
