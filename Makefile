# Everything a checkout needs. The environment is made from pinned requirements, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help env demo test check test-slow fuzz release-check zoo bench docs clean

help:
	@echo "make demo       the whole story on bundled real data, offline, about two minutes"
	@echo "make test       lint, types, import contracts, tests"
	@echo "make check      lint, types and import contracts only"
	@echo "make test-slow  the tests that take minutes: kill and resume, experiments at toy size, the wheel, the browser"
	@echo "make fuzz       recipes, goals, project files and run folders of any content, 5,000 each"
	@echo "make release-check  wheel and source archive in clean environments, on every supported Python found"
	@echo "make zoo        quantize and prune a zoo of architectures, run the results (needs the bench requirements)"
	@echo "make bench      every benchmark; DATA=folder WEIGHTS=folder"
	@echo "make docs       the documentation, into site/"

env: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/lissom demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

# One process a core, one thread each: files of tests are spread over them.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

$(VENV)/.bench: $(STAMP) requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --hypothesis-profile=long --timeout=7200 tests/test_fuzz.py

release-check: $(STAMP)
	$(BIN)/python scripts/release_check.py

zoo: $(VENV)/.bench
	$(BIN)/python -m benchmarks zoo

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks run --all $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS))

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	$(BIN)/mkdocs build --strict

clean:
	rm -rf dist build site .pytest_cache .ruff_cache
