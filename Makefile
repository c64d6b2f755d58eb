# Two commands for a newcomer: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two spinning OpenMP threads on a shared box are several times slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test check format bench bench-gpu clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/refocus demo --output runs/demo

test: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Minutes on a quiet machine. Each prints JSON and keeps it in benchmarks/results. seeds.py, the demo three times, is not among them.
bench: setup
	for name in decode picking memory haystack selecting filtering step checkpointing; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# With the Python that is there: a GPU machine has its own torch, and perhaps no network to install anything.
bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist
