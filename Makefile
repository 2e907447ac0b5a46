# Everything runs in .venv, which is made on first use and again only when pyproject.toml or setup.py changes.
PYTHON ?= python3
# Installed first, so that no other package brings a build of its own choice
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready
LOWER := .venv-lower/bin
TESTS ?= tests
# Two test processes on two cores
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint type contracts format examples docs build sb3-suite check lower-bounds clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two at a time; what each prints stands together
examples: $(READY)
	printf '%s\n' examples/*.py examples/*.ipynb | xargs -P 2 -I{} sh -c ' \
		case {} in *.py) command="$(BIN)/python {} --short";; *) command="$(BIN)/jupyter-execute {}";; esac; \
		output=$$($$command 2>&1); status=$$?; printf "== %s\n%s\n" {} "$$output"; exit $$status'

# Pages with all links between them checked, then the doctests
docs: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b doctest docs docs/_build/doctest

# sdist and wheel, in dist/
build: $(READY)
	$(BIN)/python -m build

sb3-suite: $(READY)
	$(BIN)/python tests/sb3_suite/run.py

check: lint type contracts test examples docs build sb3-suite

# The tests with the oldest versions that pyproject.toml admits, with Python 3.10 or 3.11: the package by itself, then with
# MuJoCo and the zoo, where build.txt constrains what packages are built with
lower-bounds:
	test -x $(LOWER)/python || $(PYTHON) -m venv .venv-lower
	$(LOWER)/python -m pip install --quiet --disable-pip-version-check -c tests/lower-bounds/core.txt \
		-e ".[plot,progress,tensorboard]" hypothesis pytest pytest-xdist safetensors
	$(LOWER)/python -m pip uninstall --quiet --disable-pip-version-check -y mujoco rl_zoo3 shimmy
	$(LOWER)/python -m pytest -n 2 --dist worksteal -q -W default $(TESTS)
	PIP_CONSTRAINT=tests/lower-bounds/build.txt $(LOWER)/python -m pip install --quiet --disable-pip-version-check \
		-c tests/lower-bounds/extras.txt -e ".[test,zoo]"
	$(LOWER)/python -m pytest -n 2 --dist worksteal -q -W default $(TESTS)

clean:
	rm -rf .venv .venv-lower demo_output docs/_build build dist

$(READY): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(READY)
