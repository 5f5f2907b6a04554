# The one door: every target calls host/, which knows the rest. `make help` lists them.
#   make run ARGS="--port 8081"     further flags for the command behind a target
#   make PYTHON=python3.12 build    another Python than the system's

PYTHON ?= python3
ARGS ?=
BOOTSTRAP = @$(PYTHON) host/bootstrap.py
CLLM = @.venv/bin/cllm

.PHONY: help run build test test-upstream bench repl debug lint format clean gpu-kit gpu-check \
	gpu-fuzz

help:
	@echo "make run     boot in QEMU with SmolLM2 and serve on http://127.0.0.1:8080"
	@echo "make build   build/cllm.elf and .venv/bin/cllm"
	@echo "make test    unit tests and guest tests"
	@echo "make test-upstream   MicroPython's own tests in the guest; ARGS=\"--groups basics,io\""
	@echo "make bench   compare with llama-server in a small Linux guest; ARGS=\"--sweep\""
	@echo "make gpu-kit     what gpu-check needs, in build/gpu-check and build/gpu-check.tar.gz"
	@echo "make gpu-check   check and measure an NVIDIA card; ARGS=\"--engine ptx\" without one"
	@echo "make gpu-fuzz    100,000 random and mutated records against gpud, under sanitizers"
	@echo "make repl    like run, with every key for the guest's REPL; Ctrl-] ends it"
	@echo "make debug   like run, waiting for gdb; prints the command to attach it"
	@echo "make lint    check all sources by ruff, mypy, clang-format and codespell"
	@echo "make format  lay out all sources by ruff and clang-format"
	@echo "make clean   remove what was built; downloads stay in the cache"
	@echo "Each installs what this machine lacks and says so. ARGS= passes flags on."

build:
	$(BOOTSTRAP) build
	$(CLLM) build

run: build
	$(CLLM) run --model smollm2 $(ARGS)

repl: build
	$(CLLM) repl --model smollm2 $(ARGS)

test:
	$(BOOTSTRAP) test
	$(CLLM) test $(ARGS)

test-upstream:
	$(BOOTSTRAP) test
	$(CLLM) test-upstream $(ARGS)

bench: build
	$(CLLM) bench $(ARGS)

gpu-kit:
	$(BOOTSTRAP) test
	@.venv/bin/python bench/gpu/kit.py $(ARGS)

gpu-check: # needs no network and no .venv: the machine with the card may have neither
	@PYTHONPATH=host $(PYTHON) -m cllm.gpu_check $(ARGS)

gpu-fuzz:
	$(BOOTSTRAP) test
	$(BOOTSTRAP) cuda
	@FUZZ_RECORDS=$${FUZZ_RECORDS:-100000} .venv/bin/python -m pytest -s \
		tests/unit/gpud/test_fuzz_records.py $(ARGS)

debug:
	$(BOOTSTRAP) debug
	$(CLLM) build
	$(CLLM) debug --model smollm2 $(ARGS)

lint:
	$(BOOTSTRAP) build
	$(CLLM) lint

format:
	$(BOOTSTRAP) build
	$(CLLM) format

clean:
	rm -rf build .venv micropython/src micropython/.src-* llama.cpp/src llama.cpp/.src-* \
		models/src models/.src-*
