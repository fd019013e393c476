# make demo and make test do their own set-up; `make help` lists the targets.

# The demo: digits 0-4 are normal, 5-9 the anomalies, small networks at a quarter of their width.
# The embedded pictures have 8 x 8 pixels: a quarter of the usual steps is enough for them.
DEMO_TRIALS  ?= 10
DEMO_STEPS   ?= 800
DEMO_WIDTH   ?= 0.25
DEMO_TOP     ?= 1
DEMO_SEEDS   ?= 3
DEMO_SEED    ?= 0
DEMO_PROBLEM ?= --dataset digits --normal-class 0 --normal-class 1 --normal-class 2 \
                --normal-class 3 --normal-class 4
DEMO_FIXED   ?= --width $(DEMO_WIDTH)
DEMO_FOLDER  := demo
DEMO_RUN     := digits

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The interpreter that creates .venv; make setup PYTHON=/path/to/python overrides the choice.
PYTHON ?=

# Without bytecode each of the processes that test would compile all tests, with their assertions
# rewritten, and each process that they start would compile the package.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test docs clean
.DEFAULT_GOAL := help

help: ## show this list
	@echo 'Targets:'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install amatune and its tools into it

demo: $(STAMP) ## search, retrain, export and score on the embedded digits, in minutes
	@rm -rf $(DEMO_FOLDER)
	@set -e; export PATH="$(abspath $(BIN)):$$PATH"; \
	step() { printf '\n$$ %s\n' "$$*"; "$$@"; }; \
	step amatune search $(DEMO_PROBLEM) $(DEMO_FIXED) --trials $(DEMO_TRIALS) \
	    --steps $(DEMO_STEPS) --seed $(DEMO_SEED) --runs-dir $(DEMO_FOLDER)/runs --name $(DEMO_RUN); \
	step amatune best $(DEMO_RUN) --runs-dir $(DEMO_FOLDER)/runs --top $(DEMO_TOP) \
	    --seeds $(DEMO_SEEDS) --export; \
	step python benchmarks/demo_pictures.py $(DEMO_FOLDER)/runs/$(DEMO_RUN) $(DEMO_FOLDER)/pictures; \
	step amatune score $(DEMO_FOLDER)/runs/$(DEMO_RUN)/best/export $(DEMO_FOLDER)/pictures; \
	step amatune status $(DEMO_RUN) --runs-dir $(DEMO_FOLDER)/runs

test: $(STAMP) ## lint, format check; then types and tests, side by side
	@say() { printf '\n== %s\n' "$$*"; }; \
	verdict() { [ $$2 -eq 0 ] || echo "make test: $$1 failed" >&2; return $$2; }; \
	check() { say "$$@"; "$(BIN)/$$@"; verdict "$$1" $$?; }; \
	check ruff check . && check ruff format --check . || exit; \
	told=$$(mktemp); trap 'rm -f "$$told"' EXIT; \
	"$(BIN)/mypy" > "$$told" 2>&1 & mypy=$$!; trap 'kill $$mypy; exit 130' INT TERM; \
	say pytest; "$(BIN)/pytest"; tests=$$?; \
	say mypy; wait $$mypy; types=$$?; cat "$$told"; \
	verdict mypy $$types; verdict pytest $$tests && exit $$types

docs: $(STAMP) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict
	@echo 'make docs: open site/index.html'

clean: ## remove .venv, caches, the demo's output; runs/ is kept
	rm -rf $(VENV) $(DEMO_FOLDER) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	suits() { "$$1" -c "import sys, $$2; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; }; \
	if ! suits $(BIN)/python pip; then \
	    chosen=''; \
	    for python in $(PYTHONS); do \
	        if suits "$$python" 'venv, ensurepip'; then chosen="$$python"; break; fi; \
	    done; \
	    if [ -z "$$chosen" ]; then \
	        echo 'make setup: no Python 3.11 or newer with its venv module; tried: $(PYTHONS).' >&2; \
	        echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it:' \
	             'make setup PYTHON=/path/to/python3' >&2; \
	        exit 1; \
	    fi; \
	    rm -rf $(VENV); \
	    "$$chosen" -m venv $(VENV); \
	fi; \
	echo 'make setup: installing into $(VENV); the first time downloads torch and ray'; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $(STAMP)
