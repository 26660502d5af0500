# make book and make test need Python >= 3.11, make and a package index; each target sets itself
# up on first use. Variables: PYTHON, JOBS, PORT, BENCH, TORCH_INDEX (`make help`).

PYTHON ?= python3
JOBS ?= 2
PORT ?= 8000
BENCH ?= sasrec-step hstu-step full-rank mol-brute-force mol-top-k h-indexer
# Where torch comes from. Empty: without a GPU on Linux, PyTorch's index of CPU builds if it can be
# reached (the default index holds the CUDA build there: gigabytes), else pip's own index, unless
# that would bring the CUDA build too.
TORCH_INDEX ?=
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
SETUPTOOLS := $(shell sed -n 's/^setuptools==//p' constraints.txt)

.PHONY: help book serve test lint spark lab bench clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile
	@echo "  variables: PYTHON=$(PYTHON) JOBS=$(JOBS) PORT=$(PORT) BENCH=\"$(BENCH)\""
	@echo "             TORCH_INDEX=$(TORCH_INDEX) (URL of the package index for torch)"

book: $(READY)  ## run the chapters that changed and build the site
	@$(RUN) book/build.py --profile book --jobs $(JOBS)

serve: book  ## build the site and serve it on this machine
	@echo "http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)"
	@$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: lint  ## lint, unit tests, chapters and site at smoke size, browser tests
	@$(RUN) -m pytest -q -rs -n $(JOBS) tests/unit
	@$(RUN) book/build.py --profile smoke --jobs $(JOBS)
	@GENREC_SITE=_build/smoke/html $(RUN) -m pytest -q -rs -n $(JOBS) tests/chapters tests/site

lint: $(READY)  ## ruff and mypy
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

spark: $(READY)  ## the tables of chapter 11 on Spark: installs the scale extra, needs Java
	@$(PIP) install --quiet --no-build-isolation -c constraints.txt --editable ".[scale]"
	@GENREC_REQUIRE_SPARK=1 $(RUN) -m pytest -q -rs -k spark tests/unit/request_only

lab: $(READY)  ## JupyterLab; a click on a chapter opens it as a notebook
	@JUPYTER_CONFIG_PATH=book/lab $(RUN) -m jupyter lab \
	  --LabApp.default_url=/lab/tree/chapters --LabApp.extension_manager=readonly \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

bench: $(READY)  ## the benchmarks in BENCH, one JSON object each
	@for name in $(BENCH); do $(RUN) -m genrec_lite.cli bench $$name --json || exit 1; done

clean:  ## remove what was built; the installed packages stay
	rm -rf _build build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What was set up is of no use once its Python is gone (upgraded, or the folder moved).
ifneq ($(shell $(RUN) -c 'print(1)' 2>/dev/null),1)
.PHONY: $(READY)
endif

$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "No '$(PYTHON)' on this machine: install Python >= 3.11, or name it: make PYTHON=..."; \
	  exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$("$(PYTHON)" --version) is too old: Python >= 3.11 is needed; name one: make PYTHON=..."; \
	  exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not make a virtual environment (on Debian: apt install python3-venv)"; \
	  exit 1; }
	@index="$(TORCH_INDEX)"; \
	if $(RUN) -c 'import sys; from importlib.metadata import version; \
	  sys.exit(version("torch").split("+")[0] != "$(TORCH)")' 2>/dev/null; then \
	  echo "torch $(TORCH): already installed"; \
	else \
	  if [ -n "$$index" ]; then why="TORCH_INDEX"; \
	  elif [ "$$(uname -s)" != Linux ]; then why="not Linux: the default build needs no CUDA"; \
	  elif nvidia-smi >/dev/null 2>&1; then why="a GPU is there"; \
	  elif timeout 5 $(RUN) -c 'import sys, urllib.request as u; \
	    u.urlopen(u.Request(sys.argv[1] + "/torch/", method="HEAD"), timeout=3)' \
	    $(TORCH_CPU_INDEX) 2>/dev/null; then index="$(TORCH_CPU_INDEX)"; why="no GPU: CPU build"; \
	  else why="no GPU, and PyTorch's CPU index does not answer"; \
	    report=$$(mktemp); \
	    $(PIP) install --quiet --dry-run --ignore-installed --report "$$report" \
	      -c constraints.txt "torch==$(TORCH)" || { rm -f "$$report"; exit 1; }; \
	    if grep -q '"nvidia-\|"cuda-' "$$report"; then rm -f "$$report"; \
	      echo "torch $(TORCH): pip's own index has only the CUDA build, gigabytes ($$why)."; \
	      echo "Set TORCH_INDEX=<URL of an index with CPU builds>, or, to accept the CUDA build,"; \
	      echo "TORCH_INDEX=<URL of your own index>, and run make again."; exit 1; fi; \
	    rm -f "$$report"; fi; \
	  echo "torch $(TORCH): from $${index:-pip's own index} ($$why)"; \
	  if [ -n "$$index" ]; then \
	    $(PIP) install --quiet --no-deps --index-url "$$index" "torch==$(TORCH)"; \
	  else \
	    $(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"; fi; \
	fi
	@echo "installing the packages of constraints.txt (a minute or two on first use)"
	@$(PIP) install --quiet "setuptools==$(SETUPTOOLS)"
	@$(PIP) install --quiet --no-build-isolation -c constraints.txt --editable ".[book,dev]"
	@$(PIP) check
	@touch $@
