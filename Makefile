# Thin names over plain commands. `make demo` and `make test` need only Python 3.11 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo_out

.PHONY: demo test lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	@mkdir -p $(DEMO)
	$(BIN)/structok quantize structok/examples/1a8o.cif.gz -f text
	$(BIN)/structok quantize structok/examples/1a8o.cif.gz -o $(DEMO)/protein.jsonl --force
	$(BIN)/structok decode $(DEMO)/protein.jsonl -o $(DEMO)/protein.pdb --force
	$(BIN)/structok evaluate structok/examples/1a8o.cif.gz

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check structok train eval tests
	$(BIN)/ruff format --check structok train eval tests
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO)
