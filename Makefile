# The commands of this repository. Each does all its own set-up, and nothing twice: HACKING.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

saccade := build/cpu/tools/saccade/saccade
python := .venv/bin/python
cpp_files = $(shell find include python src tests tools -name '*.h' -o -name '*.cc')
python_files = benchmarks examples python tests

# The library and the Python extension compile the same sources: the second build is a cache hit.
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)

.PHONY: help setup test lint format tidy asan tsan fuzz soak neon bench demo study clean

help:
	@echo 'make setup    install what is needed, build, install the Python package into .venv'
	@echo 'make test     set up, then run every test'
	@echo 'make lint     check the formatting of C++ and Python, and the Python code'
	@echo 'make format   format C++ and Python'
	@echo 'make tidy     run clang-tidy'
	@echo 'make asan     run the C++ tests with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan     run the C++ tests with ThreadSanitizer'
	@echo 'make fuzz     run every fuzzer for a million inputs, or fuzz_runs=N, at most fuzz_seconds=N'
	@echo 'make soak     the fuzzers, and what is random or killed, for long; goes on where it stopped'
	@echo 'make neon     build for 64-bit Arm and check the kernels under qemu'
	@echo 'make bench    measure against equal dense attention and against PyTorch'
	@echo 'make demo     draw clips dense and with LiteAttention, and write build/demo/report.html'
	@echo 'make study    the same with more of everything, then LiteAttention against every baseline at'
	@echo '              equal error, growth, and more: hours; goes on where it stopped'
	@echo 'make clean    remove build/ and .venv/'

setup: python-package

test: setup
	$(saccade) check --quick
	ctest --preset cpu --parallel $$(nproc)
	$(python) -m pytest tests/python

lint: python-environment
	@.venv/bin/clang-format --dry-run --Werror $(cpp_files)
	.venv/bin/ruff check $(python_files)
	.venv/bin/ruff format --check $(python_files)

format: python-environment
	@.venv/bin/clang-format -i $(cpp_files)
	.venv/bin/ruff check --fix $(python_files)
	.venv/bin/ruff format $(python_files)

tidy: setup
	@scripts/system_packages.sh clang-tidy-14
	run-clang-tidy-14 -quiet -p build/cpu '/(src|tests|tools)/'
	run-clang-tidy-14 -quiet -p build/wheel '/python/'

neon:
	@scripts/system_packages.sh g++-aarch64-linux-gnu qemu-user \
	  libfmt-dev:arm64 libgtest-dev:arm64 libhwy-dev:arm64
	cmake --preset neon
	cmake --build --preset neon --target saccade_cli
	qemu-aarch64 build/neon/tools/saccade/saccade check --quick

asan: build-asan
	ctest --preset asan

# The ThreadSanitizer of GCC 12 needs the small address randomisation that newer kernels widened.
tsan: build-tsan
	$$(setarch --addr-no-randomize true 2>/dev/null && echo setarch --addr-no-randomize) \
	  ctest --preset tsan

# Of each fuzzer; 0 seconds are no limit.
fuzz_runs := 1000000
fuzz_seconds := 0
fuzz: build-fuzz
	@scripts/fuzz.sh $(fuzz_runs) $(fuzz_seconds)

soak: setup build-fuzz
	@scripts/soak.sh

bench: setup
	$(saccade) bench
	$(python) benchmarks/cpu_vs_torch.py

demo: setup
	$(python) -m saccade.demo --model examples/demo_model --out build/demo

study: setup
	$(python) -m saccade.demo --model examples/demo_model --out build/study --study
	$(python) -m benchmarks.lite_study --out build/lite_study

clean:
	rm -rf build .venv

# Set-up, step by step.

.PHONY: system-packages fuzz-packages python-environment python-package
.PHONY: build-cpu build-asan build-tsan build-fuzz

system-packages:
	@scripts/system_packages.sh

fuzz-packages:
	@scripts/system_packages.sh clang-14 libclang-rt-14-dev

python-environment: system-packages
	@scripts/python_environment.sh

build/%/build.ninja: CMakePresets.json | system-packages
	cmake --preset $*

build/fuzz/build.ninja: | fuzz-packages

build-cpu build-asan build-tsan build-fuzz: build-%: build/%/build.ninja
	@cmake --build --preset $*

python-package: build-cpu python-environment
	@scripts/install_python_package.sh
