# make serve | test | test-rdma | lint | sanitize | sanitize-gpu | neon | bench. Each sets up what it needs in $(VENV) first; none needs root.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)

.PHONY: help serve test test-rdma lint sanitize sanitize-gpu neon bench wheel pythons clean

help:
	@echo "make serve     build everything and serve the demo model on http://127.0.0.1:8080"
	@echo "make test      build everything and run the test suite"
	@echo "make test-rdma the RDMA tests, on this machine's device or in an emulated machine that has two"
	@echo "make lint      ruff, mypy --strict, clang-format"
	@echo "make sanitize  native tests under address, undefined-behaviour and thread sanitizers"
	@echo "make sanitize-gpu  the GPU kernels under compute-sanitizer's memcheck and racecheck"
	@echo "make neon      native code cross-compiled for Arm; its kernels' tests under qemu"
	@echo "make bench     benchmarks, with ratios to their limits"
	@echo "make wheel     wheels with and without CUDA kernels, and each extra in an environment of its own"
	@echo "make pythons   build and test transfer and registry on the other Pythons that are here"

# The stamp is newer than all that the native build reads, or the build runs again.
NATIVE := $(shell find csrc CMakeLists.txt pyproject.toml constraints.txt -type f 2>/dev/null | grep -v '~$$')
STAMP := $(VENV)/.installed

$(STAMP): $(NATIVE)
	@sh scripts/setup.sh "$(PYTHON)" "$(VENV)" "$(JOBS)"
	@touch $(STAMP)

serve: $(STAMP)
	@exec $(BIN)/python -m nano.serve $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

test-rdma: $(STAMP)
	sh scripts/rdma.sh "$(BIN)" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/cpp/*.cpp')
	$(BIN)/mypy

sanitize: $(STAMP)
	sh scripts/sanitize.sh "$(BIN)" "$(JOBS)"

sanitize-gpu: $(STAMP)
	$(BIN)/python scripts/sanitize_gpu.py $(ARGS)

neon: $(STAMP)
	sh scripts/neon.sh "$(BIN)" "$(JOBS)"

bench: $(STAMP)
	sh scripts/bench.sh "$(BIN)"

wheel: $(STAMP)
	sh scripts/wheels.sh "$(BIN)"

pythons: $(STAMP)
	sh scripts/pythons.sh

clean:
	rm -rf build dist $(VENV) nano/*.so nano/router/*.so
