# make demo       the whole story in real processes on this machine (installs into .venv the first time)
# make test       all tests of up to a few seconds each; test-slow: the others; bench: the numbers, with their peers
# make lint       ruff, mypy --strict, import contracts
# make protobuf   write down anew what runtime/msrt/serving/grpc/oip.proto says
# A machine without a GPU saves 3 GB with:  make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON    ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
WORKERS   ?= 3
VENV      := .venv
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
PYTEST    := $(BIN)/python -m pytest

# Tests and the demo start msrt hundreds of times: where Python may not keep what it compiled, each would compile it all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow bench lint format protobuf clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/msrt demo $(DEMO_FLAGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -q -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -q -m slow -n 2 --dist loadfile --no-loadscope-reorder --timeout 1200

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.bench $(PART)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protobuf: $(VENV)/.installed-dev
	$(BIN)/python -m msrt.serving.grpc.generate

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make the second run quick; [dev] holds all of the other extras.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch==2.13.0 -e ".[cloud,edge,device,train]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch==2.13.0 -e ".[dev]"
	@touch $@ $(VENV)/.installed
