# `make quickstart` and `make test` each prepare .venv by themselves, in either order.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.created $(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-browser $(VENV)/.installed-docs
CUT_OFF := $(VENV)/.installing

PYTHONS := 3.11 3.12 3.13 3.14

.PHONY: quickstart test lint slow browser docs pythons clean

quickstart: $(VENV)/.installed
	$(BIN)/python experiments/sweep.py --suite=mini --methods=dac,dtql,diffcps,diffpogan,bc \
	    --preset=quick --num_seeds=3 --out=runs/quickstart --resume

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --optimised

browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest -m browser

# The site of docs/, in build/site; opens from the folder.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f docs/site/mkdocs.yml

# Installs the wheel for each Python of PYTHONS that is here, and imports every module from it.
pythons: $(VENV)/.installed-dev
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -c 'import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])' "$$folder" && \
	for version in $(PYTHONS); do \
	    command -v python$$version >/dev/null && python$$version -c '' 2>/dev/null \
	        || { echo "python$$version: not here"; continue; }; \
	    python$$version -m venv "$$folder/$$version" && \
	    "$$folder/$$version/bin/python" -m pip install --disable-pip-version-check --quiet "$$folder"/*.whl && \
	    (cd "$$folder" && "$$version/bin/python" $(CURDIR)/tests/import_all.py) && \
	    "$$folder/$$version/bin/diffjax" tasks --suite=mini >/dev/null || exit 1; \
	done

# Keeps runs/: results are never a by-product.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist MUJOCO_LOG.TXT
	find diffjax experiments benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# The stamps of an environment count for nothing when its Python is gone, when an install was cut off in the
# middle, or when it imports diffjax from another folder (this one was copied or moved).
IMPORTS_THIS := from importlib.util import find_spec as f; from os.path import samefile; \
    print(samefile(f("diffjax").origin, "diffjax/__init__.py"))
ifneq (True,$(shell test ! -e $(CUT_OFF) && $(BIN)/python -I -c '$(IMPORTS_THIS)' 2>/dev/null))
$(shell rm -f $(STAMPS))
endif

MODERN := import sys; sys.exit(sys.version_info < (3, 11))

# A working environment is kept with whatever else is in it; a broken one is made anew.
$(VENV)/.created:
	@$(PYTHON) -c '$(MODERN)' || { echo "'$(PYTHON)' is not Python 3.11 or newer;" \
	    "name one that is, as in: make PYTHON=python3.12" >&2; exit 1; }
	@{ test ! -e $(CUT_OFF) && $(BIN)/python -c '$(MODERN)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1 \
	    || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

define install
	@touch $(CUT_OFF)
	$(BIN)/python -m pip install --disable-pip-version-check --editable '$(1)' || { rm -f $(CUT_OFF); exit 1; }
	@rm -f $(CUT_OFF)
endef

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(call install,.)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(call install,.[dev])
	@touch $(VENV)/.installed $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(call install,.[dev,browser])
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@

$(VENV)/.installed-docs: $(VENV)/.created pyproject.toml
	$(call install,.[docs])
	@touch $(VENV)/.installed $@
