"""AdaIN of latents by masks: `api` checks the arguments, `reference`, `torch` and `triton` compute."""
