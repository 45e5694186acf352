# Thin names over plain commands. `make demo` and `make test` need only Python 3.11 and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo_out
EXAMPLES := structok/examples/1a8o.cif.gz structok/examples/ligand.sdf

.PHONY: demo test lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev,train,lm]'
	touch $@

demo: $(VENV)/installed
	@mkdir -p $(DEMO)
	@echo "--- tokens of a protein and of a molecule"
	$(BIN)/structok quantize $(EXAMPLES) -f text
	@echo "--- and back"
	$(BIN)/structok quantize $(EXAMPLES) -o $(DEMO)/tokens.jsonl --force
	$(BIN)/structok decode $(DEMO)/tokens.jsonl -o $(DEMO)/rebuilt --force
	@echo "--- how close (RMSD in Å)"
	$(BIN)/structok evaluate $(EXAMPLES)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check structok train eval tests
	$(BIN)/ruff format --check structok train eval tests
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO)
