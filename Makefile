# All set-up is done here: a fresh machine needs Python 3.11 or newer, and make.
#
#   make demo PYTHON=python3.12                     another Python
#   make demo ARGS='--trainer.max_epochs 2'         options of `pellucid run`
#   make test ARGS='tests/losses -m "not slow"'     options of pytest

PYTHON ?= python3
ARGS ?=

# Paths are relative, so that a checkout may lie in a directory with spaces in its name.
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := requirements/tested.txt
# A uv that does not answer (the shim of another Python's) is as good as none.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean browser

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## Train the interpretable CNN and its plain twin, and compare them
	@set -e; root="runs/demo/$$(date +%Y-%m-%d_%H-%M-%S)"; \
	for config in cnn_parts icnn_parts; do \
		$(BIN)/python -m pellucid.cli run --config $$config --run_root "$$root" \
			--trainer.max_epochs 10 $(ARGS); \
	done; \
	echo; \
	$(BIN)/python -m pellucid.cli report "$$root"/cnn_parts/* "$$root"/icnn_parts/* \
		--output "$$root/report.html"

test: $(VENV)/.installed-dev browser ## Run the whole test suite
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev browser ## Check format, lint and types, then run the tests
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest $(ARGS)

format: $(VENV)/.installed-dev ## Format the code and correct what lint can correct
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

clean: ## Remove the virtual environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find pellucid tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Tests drive the report in a browser. Where none can be had they are skipped, with the reason: a
# missing browser must not keep the other tests from running.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| command -v google-chrome >/dev/null || { \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			echo "installing chromium, for the tests of the report"; \
			{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 600 \
				apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
				|| echo "chromium cannot be installed: tests of the report in a browser are skipped"; \
		else \
			echo "no chromium: tests of the report in a browser are skipped (apt-get install chromium)"; \
		fi; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Pellucid needs Python 3.11 or newer, $(PYTHON) is none: make demo PYTHON=python3.12" >&2; \
		exit 1; \
	}
ifneq ($(UV),)
	uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

# A stamp is younger than what it was installed from, so that a second call has nothing to do.
$(VENV)/.installed: EXTRA :=
$(VENV)/.installed-dev: EXTRA := [dev]
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
ifneq ($(UV),)
	uv pip install --python $(BIN)/python -c $(CONSTRAINTS) -e '.$(EXTRA)'
else
	@# An environment that uv made has no pip.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.$(EXTRA)'
endif
	@touch $@
