# make demo   sets up and runs the main job on the embedded model
# make test   sets up and runs the tests
# Set-up is done once, into .venv; it is repeated when what it depends on changes.

PYTHON ?= python3
export PYTHON TORCH_INDEX ACCEPT_CUDA
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

SETUP := pyproject.toml constraints.txt scripts/setup.sh
RUN := .venv/bin/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

.PHONY: setup demo test test-all lint format bench clean

setup: .venv/.ready

.venv/.ready: $(SETUP)
	@scripts/setup.sh
	@touch $@

.venv/.ready-test: $(SETUP)
	@scripts/setup.sh test
	@touch .venv/.ready $@

.venv/.ready-lint: $(SETUP)
	@scripts/setup.sh test lint
	@touch .venv/.ready .venv/.ready-test $@

demo: .venv/.ready
	@.venv/bin/posttrain demo

test: .venv/.ready-test
	@$(PYTEST) -m "not slow"

test-all: .venv/.ready-test
	@$(PYTEST)

lint: .venv/.ready-lint
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@.venv/bin/lint-imports

format: .venv/.ready-lint
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench: .venv/.ready-test
	@$(RUN) -m benchmarks.sft_step
	@$(RUN) -m benchmarks.dpo_step

clean:
	rm -rf .venv runs trainer_output
