# Every check that CI runs, and those too slow for it or in need of a GPU.
PYTHON ?= python

.PHONY: check lint types test slow parity full-size demo

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

# Full-size SD-1.5 with random weights, written by diffusers, loaded by us in both layouts; wants 16 GB of memory.
parity:
	$(PYTHON) -m pytest -m parity

# Train the demonstration weights again.
demo:
	$(PYTHON) -m demo.train all
