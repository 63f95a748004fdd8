# make demo   the whole chain on the built-in phantom data set, then says where its report is
# make test   everything that CI runs
# make docs   the documentation as a site that needs no network
# Needs Python 3.11 to 3.13 and nothing else; .venv is made on the first call.

PYTHON ?= python3
BIN = .venv/bin
SHELL = /bin/bash

.PHONY: venv demo test lint docs bench clean

venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	[ -x $(BIN)/uv ] || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv pip install --quiet --python .venv --require-hashes --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python .venv --no-deps --editable .
	touch $@

demo: venv
	$(BIN)/python examples/demo.py --out demo

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Nothing is fetched while testing: the hub is offline and Weights & Biases stays on the machine. One thread a process,
# and one process more than the two cores that CI has: some tests wait for a scheduler or a signal.
test: lint
	HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 3 --dist loadfile --no-loadscope-reorder

docs: venv
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

bench: venv
	$(BIN)/uv pip install --quiet --python .venv --require-hashes --no-deps --requirements benchmarks/requirements.lock
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script --write || exit 1; done

clean:
	rm -rf .venv demo docs/_build .mypy_cache .ruff_cache .pytest_cache
