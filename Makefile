# Each target makes its own virtual environment; PYTHON chooses the interpreter.
PYTHON ?= python3

.PHONY: demo test coverage test-interop bench docs lint types clean

demo: .venv/demo.done
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python experiments/demo.py

# Each worker needs up to 6 GB; a file's tests stay together, since they share what they prepare.
WORKERS ?= 2

test: lint types
	.venv-test/bin/python -m pytest -n $(WORKERS) --dist loadfile

coverage: .venv-test/test.done
	.venv-test/bin/python -m coverage erase
	.venv-test/bin/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile
	.venv-test/bin/python -m coverage combine --quiet
	.venv-test/bin/python -m coverage report --skip-covered

lint: .venv-test/test.done
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

types: .venv-test/test.done
	.venv-test/bin/pyright --pythonpath .venv-test/bin/python

test-interop: .venv-interop/interop.done
	.venv-interop/bin/python -m pytest -m interop

# The site, in build/site; any warning, such as a link to nothing, fails.
docs: .venv-docs/docs.done
	.venv-docs/bin/python -m sphinx --fail-on-warning --nitpicky --quiet -b html docs build/site
	@echo build/site/index.html

# COREL5K is the archive of Corel5K's photos; the peers get environments of their own.
COREL5K ?= data/corel5k.zip

bench: .venv-bench/bench.done
	.venv-bench/bin/python -m experiments.benchmarks --corel5k $(COREL5K)

# A stamp beside the environment: made again when the dependencies change.
.venv/demo.done: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[weights,report]'
	touch $@

.venv-test/test.done: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv-interop/interop.done: pyproject.toml
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[interop]'
	touch $@

.venv-docs/docs.done: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

.venv-bench/bench.done: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[weights]'
	touch $@

clean:
	rm -rf .venv .venv-test .venv-interop .venv-bench .venv-docs .venv-peers demo build dist *.egg-info .coverage* .pytest_cache .ruff_cache .hypothesis
