# One command each: make setup, demo, test, check, bench. CI runs the same (.ci/run).
# Everything is installed into .venv here; `make clean` removes it. Another Python: make PYTHON=...

# The first Python 3.11-3.13 that works (a pyenv shim may be there and still not run).
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(SUITABLE)' 2>/dev/null; then echo $$python; break; fi; done)
UV ?= uv
PIP := .venv/bin/python -m pip install --disable-pip-version-check --quiet
ARGS ?=

.PHONY: help setup demo test check bench chaos lock clean

help:
	@echo 'make demo    watch recommendations change while events are folded'
	@echo 'make setup   install everything for development into .venv'
	@echo 'make test    all tests, on a real broker and store (ARGS="-k name" for some)'
	@echo 'make check   format, lint, types, imports'
	@echo 'make bench   speed, memory, start-up and scale (half an hour; BENCH=latency for one)'
	@echo 'make chaos   break everything by seeded schedules and verify (hours; goes on where it was)'
	@echo 'make lock    write requirements*.txt anew (needs uv)'
	@echo 'make clean   remove .venv, caches and the demo data'

setup: .venv/.installed-dev

# Needs no development tools: less to download.
demo: .venv/.installed
	@.venv/bin/foldstream demo $(ARGS)

test: .venv/.installed-dev
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.installed-dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

BENCH ?= throughput latency score memory startup scale

bench: .venv/.installed-dev
	@set -e; for what in $(BENCH); do .venv/bin/foldstream bench $$what $(ARGS); done

# Finished runs are kept in the repository, so that the table can be filled in several sittings.
CHAOS ?= docs/chaos.jsonl

chaos: .venv/.installed-dev
	.venv/bin/foldstream chaos all --resume $(CHAOS) --write-table $(ARGS)

lock:
	echo 'setuptools>=77' | $(UV) pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements-build.txt -
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file requirements.txt pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml

clean:
	@if [ -e .foldstream/lock ] && [ -x .venv/bin/foldstream ]; then .venv/bin/foldstream down; fi
	rm -rf .venv .foldstream build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find streams profiles agents tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@if [ -z '$(PYTHON)' ] || ! $(PYTHON) -c '$(SUITABLE)'; then \
		echo 'error: Python 3.11, 3.12 or 3.13 is needed; python3 here is' \
			"$$(python3 --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3.13" >&2; \
		exit 2; fi
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo 'error: no virtual environment could be made: on Debian and Ubuntu,' \
			'apt-get install python3-venv' >&2; exit 1; }

# The markers say that an install came to its end; a changed list of packages starts it again.
.venv/.installed: requirements.txt requirements-build.txt pyproject.toml | .venv/bin/python
	@echo 'installing foldstream, and compiling its kernels (a few minutes the first time)'
	@$(PIP) --require-hashes -r requirements.txt -r requirements-build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@.venv/bin/foldstream warmup
	@touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	@echo 'installing the development tools'
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@
