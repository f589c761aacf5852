# Every check that CI runs, and those too slow for it or in need of a GPU.
PYTHON ?= python

.PHONY: check lint types test browser package slow parity fuzz faults bench evaluation rehearsal both gpu demo

check: lint types test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n 2 --dist worksteal

# Installed in fresh environments, from the wheel and editable, beside Hugging Face's package `kernels`. A minute.
package:
	$(PYTHON) -m pytest -m package tests/packaging

slow:
	$(PYTHON) -m pytest -m slow

# The page of `review` in Chromium (Debian's package chromium); wants the extra [browser].
browser:
	$(PYTHON) -m pytest -m browser tests/evaluation/browser

# The suite's fuzz tests with fifty times as many seeds.
fuzz:
	FUZZ_ROUNDS=50 $(PYTHON) -m pytest tests/fuzz

# Datasets killed two hundred times at random moments.
faults:
	FAULT_KILLS=200 $(PYTHON) -m pytest tests/dataset/test_dataset_faults.py -k killed -s

# Full-size SD-1.5 with random weights, written by diffusers, loaded by us in both layouts: 10 GB of
# memory, 9 GB of disk.
parity:
	$(PYTHON) -m pytest -m parity

# Without a GPU: shortened schedules, ratios alone, and still long on few cores. Adds rows to
# benchmarks/results/ and makes the table and plot of docs/benchmarks.md of them. Wants the extra [bench].
bench:
	$(PYTHON) -m benchmarks job --dtype fp32
	$(PYTHON) -m benchmarks job --dtype bf16
	$(PYTHON) -m benchmarks job --dtype bf16 --targets 4 --warm-ups 0
	$(PYTHON) -m benchmarks networks --dtype bf16 --batch 1 4 8 --steps 50 --rounds 1
	$(PYTHON) -m benchmarks ablation --dtype fp32 --size 256
	$(PYTHON) -m benchmarks ablation --weights demo/weights
	$(PYTHON) -m benchmarks scaling --weights demo/weights --dtype bf16 --sizes 256 512 768 1024 --targets 1 2 4 8 16
	$(PYTHON) -m benchmarks table

# What judges data, with the extra [evaluate]: tests that want its libraries are skipped without it.
evaluation:
	$(PYTHON) -m pytest tests/evaluation

# The GPU's path on fake tensors, without a GPU: wants PyTorch's CUDA build.
rehearsal:
	$(PYTHON) -m pytest tests/sampler/test_fake_cuda.py -m "slow or not slow"

# The suite on PyTorch's CPU build and on its CUDA build, in environments of their own under build/.
both:
	for torch in "torch==2.13.0" "torch==2.14.1"; do \
		python3 -m venv --clear build/both && build/both/bin/pip install --quiet $$torch -e '.[test]' && \
		build/both/bin/python -m pytest -n 2 --dist worksteal || exit 1; \
	done

# On a machine with a GPU: the numerics on the device, then all benchmarks as above, with the preset as it is; at the
# end what was to be reached, and whether it was.
gpu:
	$(PYTHON) -m pytest -m gpu
	$(PYTHON) cli.py generate --output build/gpu
	$(PYTHON) -m benchmarks kernels
	$(PYTHON) -m benchmarks networks --batch 1 4 8
	$(PYTHON) -m benchmarks job
	$(PYTHON) -m benchmarks job --graphs
	$(PYTHON) -m benchmarks job --dtype fp32 --sides diffusers --rounds 2
	$(PYTHON) -m benchmarks job --targets 4 --rounds 3
	$(PYTHON) -m benchmarks job --targets 4 --rounds 3 --graphs
	$(PYTHON) -m benchmarks ablation
	$(PYTHON) -m benchmarks scaling
	$(PYTHON) -m benchmarks table
	$(PYTHON) -m benchmarks goals

# Train the demonstration weights again.
demo:
	$(PYTHON) -m demo.train
