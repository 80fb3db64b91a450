# make reproduce | test | lint | readme | site | bench | twice | faults | audit | full
# (README.md says what each does and how long it takes)
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.complete
# A stage of the pipeline runs the `python` that PATH names: ours first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE :=
export OMP_WAIT_POLICY := PASSIVE
# The first Python 3.11-3.13 on PATH; PYTHON=... chooses another.
IN_RANGE = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(IN_RANGE)' 2>/dev/null && { echo $$p; break; }; done)
# Folders of wheels that pip knows are handed on, since uv reads neither pip.conf nor PIP_*.
LINKS = $$(printf '%s' "$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null \
	|| $(PYTHON) -m pip config get install.find-links 2>/dev/null)}" | tr '\n ' ',,')

help:
	@echo "make reproduce   make every result again in a copy and compare with the committed ones"
	@echo "make test        run all tests, and re-execute and check the committed notebooks"
	@echo "make lint        ruff over code and notebooks"
	@echo "make readme      bring the README's generated parts up to date"
	@echo "make site        the notebooks and verdicts as web pages, in docs/_build/html"
	@echo "make bench       repeat the timings of benchmarks/ that need nothing but this environment"
	@echo "make twice       run the pipeline in two clones and compare every output byte by byte"
	@echo "make faults      inject every fault that a test marks, and write docs/faults.md"
	@echo "make audit       look the pinned packages up in a database of vulnerabilities"
	@echo "make full        the full profile: all of CIFAR-10, hours of CPU or a GPU;"
	@echo "                 ONLY='em_diffusion' runs one stage of it and what it needs"
	@echo "make gpu         on a machine with a CUDA GPU: the tests that need one, and its timings;"
	@echo "                 SMALL=1 tries the same commands on a CPU, at small size"
	@echo "make tensorflow-gpu   an environment of its own in which TensorFlow uses a GPU"

# --- environment: set up once, again only when the pins change -------------------------------------------------------
$(STAMP): requirements.txt requirements.lock
	@command -v git >/dev/null || { echo "git is missing: install git"; exit 1; }
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(IN_RANGE)' 2>/dev/null || { echo "Python 3.11, 3.12 or 3.13 is missing: install one, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv -h >/dev/null 2>&1 || { echo "the venv module is missing: install python3-venv"; exit 1; }
	@echo "[1/3] virtual environment .venv ($$($(PYTHON) --version))"
	@[ -x $(BIN)/uv ] || { rm -rf .venv && $(PYTHON) -m venv .venv; }
	@echo "[2/3] installer"
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@echo "[3/3] packages (about 3 GB unpacked)"
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$(LINKS)}" $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python \
		-r requirements.txt -c requirements.lock
	@touch $@

# --- what people type ------------------------------------------------------------------------------------------------
# The clock starts before the installation: that is what a new user waits for.
reproduce:
	@started=$$(date +%s) && $(MAKE) --no-print-directory $(STAMP) \
		&& $(BIN)/python -m lib reproduce --started $$started $(if $(RECORD),--record)

test: $(STAMP)
	@dvc pull --quiet
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests
	@$(BIN)/python -m lib check

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

readme: $(STAMP)
	@$(BIN)/python -m lib readme

# Sphinx and its theme come beside the pins; what is there already is not fetched again.
site: $(STAMP)
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$(LINKS)}" $(BIN)/uv pip install --quiet --python $(BIN)/python \
		-r docs/site/requirements.txt -c requirements.lock
	@dvc pull --quiet data.dvc
	@PYTHONPATH=. $(BIN)/python docs/site/build.py

bench: $(STAMP)
	@for name in attention_speed em_speed mixture_speed; do \
		echo "--- benchmarks/$$name.py"; PYTHONPATH=. $(BIN)/python benchmarks/$$name.py || exit 1; done

# THREADS_OF='1 2' compares both numbers of threads; without it the one of params.yaml.
twice: $(STAMP)
	@PYTHONPATH=. $(BIN)/python benchmarks/twice.py $(THREADS_OF)

faults: $(STAMP)
	@PYTHONPATH=. $(BIN)/python benchmarks/faults.py

audit: $(STAMP)
	@$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --no-deps -r requirements.lock

full: $(STAMP)
	@$(BIN)/python -m lib data fetch && $(BIN)/python -m lib full $(addprefix --only ,$(ONLY))

gpu: $(STAMP)
	@dvc pull --quiet data.dvc
	@$(if $(SMALL),true,$(BIN)/python -m pytest -m gpu tests)
	@PYTHONPATH=. $(BIN)/python benchmarks/gpu.py $(if $(SMALL),--small)

# PyTorch's wheels bring CUDA 13, TensorFlow's CUDA 12.9; one environment cannot hold both (docs/machines.md).
OTHER := .venv-tensorflow-gpu
tensorflow-gpu: $(STAMP)
	@[ -x $(OTHER)/bin/python ] || $(PYTHON) -m venv $(OTHER)
	@grep -v -E '^(torch|torchvision|tensorflow)' requirements.txt > $(OTHER)/requirements.txt
	@grep -o -E '^tensorflow-cpu==[0-9.]+' requirements.txt | sed 's/-cpu/[and-cuda]/' >> $(OTHER)/requirements.txt
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$(LINKS)}" $(BIN)/uv pip install --compile-bytecode --python $(OTHER)/bin/python \
		-r $(OTHER)/requirements.txt -c requirements.lock
	@$(OTHER)/bin/python -m ipykernel install --prefix .venv --name tensorflow-gpu --display-name "TensorFlow on a GPU"

.PHONY: help reproduce test lint readme site bench twice faults audit full gpu tensorflow-gpu
