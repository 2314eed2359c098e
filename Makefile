# `make` alone lists the targets. PYTHON chooses the interpreter of a new .venv.

PYTHON ?= python3
CONFIG ?= configs/pong_vtrace.toml
ARGS ?=
TESTS := -m "not slow"

BIN := .venv/bin
TRAIN_STAMP := .venv/.installed-train
DEV_STAMP := .venv/.installed-dev

.DEFAULT_GOAL := help
# In this order even under `make -j`: the tests' summary is to be the last line.
.NOTPARALLEL:
.PHONY: help train test quick nightly lint types imports unit clean

# A run that was stopped (75, 130) is no error of make's. Signals are the learner's to answer: the
# shell waits for it, and hands on what came for make alone.
define train
$(BIN)/seed-learner $(CONFIG) $(ARGS) <&0 & learner=$$!; \
trap : INT; trap 'kill -TERM $$learner' TERM; trap 'kill -HUP $$learner' HUP; \
while wait $$learner; code=$$?; kill -0 $$learner 2>/dev/null; do :; done; \
case $$code in 75|130) exit 0;; *) exit $$code;; esac
endef

help: ## this list
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(TRAIN_STAMP) ## train; CONFIG=configs/NAME.toml, ARGS="--seed 2 ..." to override fields
	@$(info $(BIN)/seed-learner $(CONFIG) $(ARGS))$(train)

test: lint types imports unit ## everything that must pass before a change lands

quick: TESTS := -m "not slow and not processes"
quick: lint unit ## about a minute: no processes, no trainings

nightly: TESTS := --hypothesis-profile "new examples"
nightly: test ## the same with the slow tests, and with examples that no run has had

lint: $(DEV_STAMP) ## style and docstrings
	$(BIN)/ruff check .

types: $(DEV_STAMP) ## type annotations
	$(BIN)/mypy

imports: $(DEV_STAMP) ## who imports whom
	$(BIN)/lint-imports

unit: $(DEV_STAMP) ## the tests but slow ones, one on each core; ARGS="-k vtrace" chooses
	$(BIN)/pytest -n auto --maxprocesses 4 --dist load --maxschedchunk 1 $(TESTS) $(ARGS)

.venv: $(TRAIN_STAMP) ## install what training needs, and nothing else

clean: ## remove .venv and what tools left behind; runs/ stays
	rm -rf .venv build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1 || true); say make PYTHON=/path/to/python3.11"; \
		exit 1; }
	$(PYTHON) -m venv .venv

# The interpreter must exist, but its date says nothing: it is a link to the system's.
$(TRAIN_STAMP): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(TRAIN_STAMP)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@
