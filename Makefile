# Two commands are enough: `make quickstart` and `make test`. Both make the environment if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

# uv does not look where pip finds local builds unless told; with no such place it picks the torch build
# that fits the machine (CPU, or the driver's CUDA).
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifndef UV_FIND_LINKS
export UV_TORCH_BACKEND ?= auto
endif

TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 WANDB_MODE=offline

.PHONY: install quickstart test test-fast proofs bench check format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lightning-audio needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	@# What our Fréchet distance is checked against. What it requires (torchaudio) comes in no build for CPU alone,
	@# and the part that is compared needs none of it.
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-deps frechet-audio-distance
	@touch $@

quickstart: install
	$(BIN)/lightning-audio quickstart --out $(RUNS)/quickstart

test: install
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --durations=10 -m "not proof"

test-fast: install
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m "not slow and not proof"

proofs: install
	$(TEST_ENV) $(BIN)/python -m pytest -m proof

bench: install
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/codec.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/evaluation.py --clips 150

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST_ENV) $(BIN)/python -m pytest tests/test_imports.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
