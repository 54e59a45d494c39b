# make demo, make test: everything from nothing (virtual environment, pinned packages, the package itself).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/installed

.PHONY: install demo test lint clean

install: $(DONE)

# torch first and by its exact version: a range would bring several gigabytes of GPU libraries
$(DONE): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: $(DONE)
	$(BIN)/python examples/graphene/demo.py

test: $(DONE)
	$(BIN)/python -m ruff check deeph_gformer tests examples benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

lint: $(DONE)
	$(BIN)/python -m ruff check deeph_gformer tests examples benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache demo-output
