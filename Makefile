# Each command does all set-up by itself; it needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo lab test slow lint docs sample wheel

# Data, notebooks and report, from nothing, on the CPU: all notebooks on streets, those without training on real video.
demo: $(READY)
	$(BIN)/egptlib demo

# JupyterLab with the notebooks, for this machine alone.
lab: $(READY)
	$(BIN)/egptlib lab

# Two workers with a thread each: two threads each would wait for one another on two cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# What starts notebook kernels or takes minutes.
slow: $(READY) $(VENV)/served
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution" notebooks/*.ipynb

# API pages that open offline: site/index.html.
docs: $(READY)
	$(BIN)/python docs/api.py site

# The sample report in docs/report/, from the runs of `make demo` on a quiet machine; GitHub Pages shows docs/.
sample: $(READY)
	$(BIN)/python docs/sample.py runs

# Exported heads are opened by speculators' own class; it asks for another transformers, so it stays in a folder apart.
$(VENV)/served: requirements-served.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ -r requirements-served.txt
	@touch $@

# What somebody gets who only installs: a wheel in an environment of its own runs a notebook outside the checkout.
wheel: $(READY)
	set -e; d=$$(mktemp -d); trap 'rm -rf "$$d"' EXIT; \
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$d" .; \
	$(PYTHON) -m venv "$$d/env"; \
	"$$d/env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock "$$d"/*.whl; \
	cd "$$d"; EGPTLIB_DATA="$$d/data" env/bin/egptlib run 01 --smoke --out "$$d/runs"

$(READY): requirements.lock requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("egptlib needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the tested packages into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
