# Two commands are all it takes on a machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SOURCES := src tests scripts
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format benchmark tensorboard clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(BIN)/.installed ## compare three families of segmenters on embedded data and print who wins
	$(BIN)/segsweep -m experiment=families
	$(BIN)/segsweep-report outputs/sweeps/families

test: $(BIN)/.installed ## run the tests (those marked slow are left out and counted)
	$(BIN)/pytest $(PARALLEL) -m "not slow"

test-all: $(BIN)/.installed ## run all tests
	$(BIN)/pytest $(PARALLEL)

lint: $(BIN)/.installed ## check style, formatting and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(BIN)/.installed ## mend style and formatting
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

benchmark: $(BIN)/.benchmark ## short version of every benchmark; CAMVID=DIR adds those on CamVid
	$(BIN)/python scripts/benchmark/short.py

tensorboard: $(BIN)/.installed ## review all runs in the browser
	$(BIN)/tensorboard --logdir outputs

clean: ## remove the environment and caches; outputs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build dist

# The environment is finished when this file says so: an interrupted installation starts again.
$(BIN)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[dev,smp,export,explain,geo]"
	@# uv leaves compiling to the first import, and containers often forbid that: 6 s at each start of a process.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/segsweep --cfg job >/dev/null
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import captum.attr, onnxruntime.quantization, onnxscript, optuna, pytest, rasterio, segmentation_models_pytorch, segsweep.task, sklearn.datasets, tensorboard.program"
	touch $@

# What ours is compared with.
$(BIN)/.benchmark: $(BIN)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[dev,smp,export,explain,geo,benchmark]"
	touch $@
