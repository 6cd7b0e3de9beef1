# foodray: `make demo` trains on a sample study, `make test` runs the suite. Both make .venv from the lock first.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help install demo test acceptance check bench lock clean
help:
	@echo "make demo    a sample study -> corpus -> trained multi-task model -> runs/demo (about 5 minutes on 2 cores)"
	@echo "make test    the test suite (FOODRAY_DATA=../shared/data adds the tests on real photographs)"
	@echo "make acceptance   what is too slow for every day: jobs submitted to a head; drivers, workers and nodes killed and submitted again"
	@echo "make check   ruff, mypy, import rules"
	@echo "make bench   throughput as ratios: decoder against Pillow, training loop against plain PyTorch, scoring against Ray's recipe, serving against the analyzer"
	@echo "make lock    resolve infra/requirements.txt again from pyproject.toml"

install: .venv/installed
# The lock is complete (--no-deps) and every file is checked against its hash; bytecode is compiled now because
# ray.init takes 14-19 s without it and 3-7 s with it.
.venv/installed: infra/requirements.txt infra/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foodray needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --no-deps -r infra/bootstrap.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --require-hashes --compile-bytecode infra/requirements.txt infra/bootstrap.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

demo: .venv/installed
	$(BIN)/python -m foodray demo --folder $(DEMO)

test: .venv/installed
	$(BIN)/python -m pytest tests -n 2 --dist loadgroup

acceptance: .venv/installed
	$(BIN)/python -m pytest tests -m slow

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: .venv/installed
	$(BIN)/python -m tests.bench

lock: .venv/installed
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml --extra dev -o infra/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url infra/bootstrap.in -o infra/bootstrap.txt

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
