# Two commands for a newcomer: `make demo` and `make test`. Each makes its environment in .venv
# with the Python of the variable PYTHON (3.10 to 3.12) and skips what is already done.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
DEMO := results/demo
# Processes of the tests; each of them uses one thread. Files go out in their order, in which the
# long ones come early, and not by their numbers of tests.
TEST_PROCESSES ?= 2

# Threads that wait asleep: where other programs use the cores too, waiting threads that spin make
# small models ten times slower.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env demo demo-streaming test test-slow lint format bench docs wheel clean

help:
	@echo "make demo     mini corpus, pretraining, fine-tuning and a summary, on synthetic speech"
	@echo "make demo-streaming   the same, trained to stream: error rates by chunk size"
	@echo "make test     the tests and the lint step"
	@echo "make test-slow   the tests that take minutes each: kills, faults, the replica"
	@echo "make env      only the environment, with the package and its tools"
	@echo "make lint     ruff: rules and format"
	@echo "make format   ruff: repair both"
	@echo "make bench    time and memory on this CPU (half an hour), and docs/benchmarks.md"
	@echo "make docs     the documentation as a site in site/; any warning is an error"
	@echo "make wheel    the wheel in dist/, checked and used in an environment of its own"
	@echo "make clean    remove the environment and the demo's results"
	@echo "PYTHON=python3.12 chooses the Python (3.10 to 3.12) of a new environment"

# The stamp is younger than the environment and the dependencies, or they are installed again.
$(INSTALLED): setup.cfg pyproject.toml $(RUN)
	$(RUN) -m pip install --disable-pip-version-check -e ".[demo,dev]"
	touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' is no Python 3.10 to 3.12: name one, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

env: $(INSTALLED)

demo: $(INSTALLED)
	$(RUN) recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml
	$(RUN) recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml
	@echo
	@$(RUN) -m speechbrain_pom summary $(DEMO)/bestrq_pom $(DEMO)/ctc_pom

demo-streaming: $(INSTALLED)
	$(RUN) recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --streaming True --output_folder $(DEMO)/bestrq_pom_streaming
	$(RUN) recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml --streaming True --pretrained $(DEMO)/bestrq_pom_streaming --output_folder $(DEMO)/ctc_pom_streaming
	@echo
	@$(RUN) -m speechbrain_pom summary $(DEMO)/bestrq_pom_streaming $(DEMO)/ctc_pom_streaming

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --doctest-modules -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slow"
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m slow

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(INSTALLED)
	$(RUN) benchmarks/mixer_scaling.py --mode infer --lengths 10,20,40,80
	$(RUN) benchmarks/mixer_scaling.py --mode train --lengths 10,20,40
	$(RUN) benchmarks/mixer_op.py
	$(RUN) benchmarks/bounds.py --check
	$(RUN) benchmarks/long_audio.py --keep_memory --check
	$(RUN) benchmarks/pretraining_cost.py --fraction 0.05 --layers 2 --batch_s 20 --repeats 3
	$(RUN) benchmarks/lstm.py --threads 1
	$(RUN) benchmarks/streaming.py --check
	$(RUN) benchmarks/streaming.py --report
	$(RUN) benchmarks/report.py

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

wheel: $(INSTALLED)
	$(RUN) tests/packaging/check_wheel.py

clean:
	rm -rf $(VENV) $(DEMO) build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
