# make run · make test · make lint · make audit · make bench · make soak: each makes what it needs in .venv by itself.
PYTHON ?= python3
ADDRESS := $(if $(findstring :,$(HOST)),[$(HOST)],$(or $(HOST),127.0.0.1)):$(or $(PORT),8000)
BIN := .venv/bin
# glibc gives each thread a heap of its own, where what it has freed stays: two are enough.
export MALLOC_ARENA_MAX ?= 2

.PHONY: run test lint audit bench soak clean

run: .venv/run
	@$(BIN)/flask workflow check workflows/release.json > /dev/null  # stops at a wrong setting, too
	@test "$$($(BIN)/flask workflow list --json)" != "[]" || $(BIN)/flask workflow apply workflows/release.json
	@echo "Signalbox starts (Ctrl-C stops it). Once it says 'Listening at', start a first run from another terminal:"
	@echo
	@echo "  curl -d '{\"version\": \"1.2\"}' -H 'Content-Type: application/json'$${ACCESS_TOKENS:+ -H 'Authorization: Bearer TOKEN'} 'http://$(ADDRESS)/api/v2/webhook?workflow=release'"
	@echo
	@echo "What comes next: README.md, 'Your first run'."
	@echo
	@[ -n "$$WEB_CONCURRENCY" ] || unset WEB_CONCURRENCY; \
	$(BIN)/gunicorn wsgi:app & service=$$!; $(BIN)/flask deliver & deliver=$$!; \
	trap 'kill $$service $$deliver 2>/dev/null' INT TERM; \
	while kill -0 $$service 2>/dev/null; do wait $$service; code=$$?; done; \
	kill $$deliver 2>/dev/null; wait $$deliver; exit $$code

test: .venv/dev
	$(BIN)/python -m pytest -m "not alone" -n 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone $$(grep -l mark.alone tests/test_*.py)

lint: .venv/dev
	$(BIN)/flake8
	$(BIN)/bandit -q -r . -x ./.venv,./tests,./bench

audit: .venv/audit
	$(BIN)/pip-audit -r requirements.txt -r requirements-postgres.txt --no-deps --disable-pip --progress-spinner off

bench: .venv/dev
	PYTHONPATH=.:tests $(BIN)/python bench/run.py

soak: .venv/dev
	PYTHONPATH=.:tests $(BIN)/python bench/soak.py $(CHECKS)

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Signalbox needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)."; \
	  echo "Install one (Debian: apt install python3 python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	  exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "The venv module is missing (Debian: apt install python3-venv)."; exit 1; }

.venv/run: requirements.txt | .venv/bin/python
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements.txt requirements-postgres.txt requirements-notify.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/run

.venv/audit: requirements.txt requirements-audit.txt | .venv/bin/python
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-audit.txt
	@touch $@ .venv/run
