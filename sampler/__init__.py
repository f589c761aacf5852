"""The method on tensors: no files and no flags. `sampler.reference` is all of it in one function."""
