"""The benchmarks by name, one schema for every row."""

from commands.threads import wait_briefly

wait_briefly()

BENCHMARKS = {
    "job": ("job:main", "the whole job, patch and label maps to pixels, beside the diffusers baseline"),
    "networks": ("networks:main", "UNet, autoencoder and text-to-image beside diffusers'"),
    "kernels": ("kernels:main", "attention, group norm with SiLU, GEGLU and AdaIN beside PyTorch's ways"),
    "ablation": ("variants:ablation", "the exact optimisations, switched on one after the other"),
    "scaling": ("variants:scaling", "how our times grow with size, classes and targets"),
    "estimate": ("estimate:main", "how long the attention kernel should take on an H100, by its machine code"),
    "goals": ("goals:main", "what a GPU is to show, beside what its latest rows show"),
    "table": ("table:main", "the tables and the plot of docs/benchmarks.md, made from benchmarks/results"),
}
"""Where each is, and what it says of itself."""
