# make demo, make test, make docs: everything from nothing (virtual environment, pinned packages, the package itself).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/installed

.PHONY: install demo test pytest test-matrix docs lint fuzz clean

install: $(DONE)

# torch first and by its exact version: a range would bring several gigabytes of GPU libraries
$(DONE): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev,docs]'
	touch $@

demo: $(DONE)
	$(BIN)/python examples/graphene/demo.py

test: $(DONE)
	$(MAKE) --jobs 2 lint pytest

pytest: $(DONE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

docs: $(DONE)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -E -q -W --keep-going docs docs/_build/html
	$(BIN)/python packaging/check_links.py docs/_build/html
	@echo "the site: docs/_build/html/index.html"

# mutated inputs per kind, and kills per command: hours with a large BUDGET
BUDGET ?= 2000
fuzz: $(DONE)
	FUZZ_BUDGET=$(BUDGET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal tests/robustness

# several Pythons, newest or lowest dependencies; see packaging/test_matrix.sh for its variables
test-matrix:
	bash packaging/test_matrix.sh

lint: $(DONE)
	$(BIN)/python -m ruff check deeph_gformer tests examples benchmarks
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .ruff_cache demo-output
