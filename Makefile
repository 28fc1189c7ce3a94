# Each target makes its own virtual environment first. PYTHON chooses the interpreter, VENV the
# folder.
# TORCH_INDEX: an extra package index for torch, such as a vendor's index of CPU or CUDA builds.
# CONSTRAINTS=/dev/null lifts the pin on torch.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
OUTPUT ?= obsdiff-demo
# Processes that run tests, one thread each. A process takes up to 2 GB.
WORKERS ?= 2
PYTEST = $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
	--constraint $(CONSTRAINTS)
INSTALLED := $(VENV)/.installed
LOWEST := $(VENV)-lowest

define CHECKS
$(VENV)/bin/ruff check .
$(VENV)/bin/ruff format --check .
$(VENV)/bin/mypy
endef

.PHONY: demo check test checks quick-tests all-tests lowest bench stress browser lint docs install
install: $(INSTALLED)

$(INSTALLED): pyproject.toml obsdiff-emoji/pyproject.toml $(CONSTRAINTS)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --editable ./obsdiff-emoji --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/obsdiff demo --output $(OUTPUT) --overwrite
	@echo "now open $(OUTPUT)/demo.html"

checks: $(INSTALLED)
	$(CHECKS)

quick-tests: $(INSTALLED)
	$(PYTEST) -m "not slow"

all-tests: $(INSTALLED)
	$(PYTEST) --durations=10

# The quick lane, before a commit. `test` runs the tests marked slow, too. Types are checked beside the
# tests: that is one process of a minute or two.
check: $(INSTALLED)
	$(MAKE) --jobs=2 checks quick-tests

test: $(INSTALLED)
	$(MAKE) --jobs=2 checks all-tests

# The lowest versions that pyproject.toml promises, installed together, and quick tests with them.
# torch 2.6 comes with its CUDA libraries: 5 GB.
lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet 'uv>=0.5'
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python \
		--resolution lowest-direct --editable ./obsdiff-emoji --editable '.[eval,report]' \
		'pytest>=8.3' 'hypothesis>=6.100' 'peft>=0.18'
	$(LOWEST)/bin/python -m pytest -q -m "not slow" tests/test_prune.py tests/pipelines tests/models

bench: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.speed

stress: $(INSTALLED)
	$(VENV)/bin/python -m stress.kill
	$(VENV)/bin/python -m stress.disk
	$(VENV)/bin/python -m stress.ranks
	$(VENV)/bin/python -m stress.fuzz
	$(VENV)/bin/python -m stress.soak

# The page of obsdiff report in a chromium, whose path may be in CHROMIUM.
browser: $(INSTALLED)
	$(PIP) --editable '.[browser]'
	$(VENV)/bin/python -m pytest -q tests/evaluation/report/test_browser.py

# The site, in site/. A link or an anchor that leads nowhere is an error.
docs: $(INSTALLED)
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "now open site/index.html"

lint: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
