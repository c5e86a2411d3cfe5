# `make demo` and `make test` need Python 3.11 or newer and make; they install everything else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where the CIFAR-10 images are: downloaded, or an image folder as folder:PATH.
CIFAR10 ?= cifar10
DEMO := demo-$(shell date +%Y%m%d-%H%M%S)

# Drivers, workers and senders are started all the time: none should compile our packages again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test long-test chaos cluster-test lint check golden evidence gpu-evidence methods-evidence weak-forward bench bench-tracking tutorial clean

help:
	@echo "make demo    which method is best on handwritten digits, and its model: some minutes after the install"
	@echo "make test    the test suite"
	@echo "make long-test  its long tests: whole studies that are killed, moved, filled up (minutes more)"
	@echo "make cluster-test  as root: a cluster on network namespaces whose machines are cut off and killed"
	@echo "make check   lint, types and the test suite"
	@echo "make chaos   a study whose driver and workers are killed thirty times (nine minutes)"
	@echo "make lint    ruff and mypy alone"
	@echo "make golden  record the golden loss traces again (after a change that is meant to change them)"
	@echo "make evidence CIFAR10=folder:PATH  every method at the same number of steps (hours; can be interrupted)"
	@echo "make methods-evidence CIFAR10=folder:PATH  every method beside a tuned baseline, few labels (hours; can be interrupted)"
	@echo "make gpu-evidence CIFAR10=folder:PATH  on a machine with a GPU: speed, kernels and errors in ten minutes (can be interrupted)"
	@echo "make weak-forward  joint or separate passes for weak views: the experiment behind the default (can be interrupted)"
	@echo "make bench   training speed, views, memory and trials side by side: the tables of docs/results.md (20 minutes)"
	@echo "make bench-tracking  what tracking costs a study, and how fast waiting events are delivered (needs PostgreSQL)"
	@echo "make tutorial  run the commands of docs/tutorial.md and write their output into the page (minutes)"
	@echo "make clean   remove the virtual environment and caches (never results)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about 6 GB, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/ssl-tune compare --methods flexmatch --labels 50 --name $(DEMO) --trials 3 --epochs 10 \
	    --set steps_per_epoch=40 --set batch_size=16 --set mu=3 --confirm-seeds 5 --tracking-timeout 60s
	$(BIN)/python docs/examples/three_digits.py $(DEMO)
	$(BIN)/ssl-tune export $(DEMO)-flexmatch --model $(DEMO)/model
	$(BIN)/ssl-tune predict $(DEMO)/model $(DEMO)/*.png --sheet $(DEMO)/predicted.png
	@echo "compare the trials in the MLflow UI:  $(BIN)/ssl-tune ui"

# Processes side by side, each with its own Ray: one more than there are processors, since tests wait for servers and
# clocks too (tests/conftest.py has the number, and the order in which files are begun). The tests of a file run in one
# process and share what they set up.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

test: install
	$(BIN)/pytest -m 'not long' $(SIDE_BY_SIDE)

long-test: install
	$(BIN)/pytest -m long $(SIDE_BY_SIDE)

cluster-test: install
	tests/cluster/needs.sh
	$(BIN)/pytest tests/cluster

chaos: install
	$(BIN)/pytest tests/chaos/kills.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

golden: install
	$(BIN)/python -m tests.golden.record

methods-evidence: install
	$(BIN)/python -m benchmarks.every_method --cifar10 $(CIFAR10)

evidence: install
	$(BIN)/python -m benchmarks.evidence --cifar10 $(CIFAR10)

# It needs torch and no service: where there is no environment yet, the machine's own Python will do.
gpu-evidence:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_evidence --seconds 600 --cifar10 $(CIFAR10)

weak-forward: install
	$(BIN)/python -m benchmarks.weak_forward

bench: install
	$(BIN)/python -m benchmarks.train_step --networks wrn-10-1
	$(BIN)/python -m benchmarks.train_step --networks wrn-28-2
	$(BIN)/python -m benchmarks.views
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.side_by_side
	$(BIN)/python -m benchmarks.side_by_side --study

bench-tracking: install
	$(BIN)/python -m benchmarks.tracking reports
	$(BIN)/python -m benchmarks.tracking epochs --trials 8 --reports 25 --rounds 4
	$(BIN)/python -m benchmarks.tracking epochs --trials 8 --reports 25 --rounds 2 --busy
	$(BIN)/python -m benchmarks.tracking backfill --backend sqlite
	$(BIN)/python -m benchmarks.tracking backfill --backend postgres

tutorial: install
	$(BIN)/python -m benchmarks.tutorial

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
