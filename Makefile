# Everything a newcomer needs. Each target makes the environment it stands on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check bench reference notebook clean

help: ## list what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.run ## a whole federation on this machine: a coordinator, three hospitals, one study
	@$(BIN)/python -m deploy.demo $(DEMO)

test: $(VENV)/.dev check ## lint, types, import rules, then every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(VENV)/.dev ## lint, formatting, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo | tail -n 2

bench: $(VENV)/.dev ## print the benchmark table and write .bench/results.json
	@$(BIN)/python -m benchmarks

reference: $(VENV)/.dev ## accuracy on real data into .reference/results.json
	@$(BIN)/python benchmarks/reference.py

notebook: $(VENV)/.dev ## open the first study in Jupyter
	@$(PIP) jupyterlab && $(BIN)/jupyter lab notebooks/first_study.ipynb

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) .demo .bench .reference .mypy_cache .ruff_cache .pytest_cache .hypothesis

# PyTorch first and by its exact version: the CPU build, without gigabytes of CUDA libraries.
$(VENV)/.torch: constraints.txt
	@echo "Setting up the environment in $(VENV) (once, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[coordinator,site,pdf]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.run
