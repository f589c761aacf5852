# Every check that CI runs, and those too slow for it or in need of a GPU.
PYTHON ?= python

.PHONY: check lint types test slow parity gpu demo

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m slow

# Full-size SD-1.5 with random weights, written by diffusers, loaded by us in both layouts: 10 GB of
# memory, 9 GB of disk.
parity:
	$(PYTHON) -m pytest -m parity

# On a machine with a GPU: the kernels' numerics on the device, then timings, added to benchmarks/results/.
gpu:
	$(PYTHON) -m pytest -m gpu
	$(PYTHON) -m benchmarks.attention

# Train the demonstration weights again.
demo:
	$(PYTHON) -m demo.train
