"""AdaIN of attention features: `api` checks the arguments, `reference`, `torch` and `triton` compute."""
