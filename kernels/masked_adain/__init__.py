"""AdaIN by class, of latents and of attention features: `api` checks the arguments, `torch` and `triton` compute."""
