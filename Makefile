# make demo   sets everything up, fine-tunes with TeCoA and TIMA, evaluates, writes runs/demo/report.html
# make test   sets everything up, runs the test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow site agreement bench lint clean

setup:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: setup
	@$(BIN)/tima demo

test: setup
	@$(BIN)/python -m pytest -n auto --cov --cov-report=term

test-slow: setup
	@$(BIN)/python -m pytest -m slow

# the documentation, into build/site; a broken link fails
site: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@$(BIN)/python -m mkdocs build --strict

# compared with other libraries, which benchmarks/README.md says how to install
agreement: setup
	@$(BIN)/python benchmarks/agreement.py

# every figure and page of benchmarks/, hours long; `python benchmarks/everything.py --list` says which
bench: setup
	@$(BIN)/python benchmarks/everything.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
