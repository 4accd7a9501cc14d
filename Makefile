# Every target makes the environment it needs: Python 3.11 or newer is all that must be there.
# `make test PYTHON=python3.12` works in an environment of that version, `JAX=0.11.2` with that JAX.
PYTHON ?= python3
NEWEST := python3.13
# What pyenv has is found by these names, whichever version of it is the global one.
export PYENV_VERSION := $(shell pyenv version-name 2>/dev/null):$(shell pyenv versions --bare 2>/dev/null | paste -sd:)
ifneq ($(origin PYTHON), file)
OF := -$(shell PYENV_VERSION=$(PYENV_VERSION) $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
VENV := .venv$(OF)$(JAX:%=-jax%)
BIN := $(VENV)/bin
COMPILE := .venv-compile$(OF)$(JAX:%=-jax%)
RUN := demo
SYSTEMS := janus chameleon transfusion lmfusion llavafusion metamorph emu metaquery

# A step on CPU frees and takes again gigabytes of buffers: kept in the process and on large pages
# they cost a fifth to a half less time (docs/benchmarks.md, "Memory of CPU runs").
demo gallery composition encoders bench: export GLIBC_TUNABLES = \
	glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1

.PHONY: demo gallery test test-long test-newest lint bench compile-check device-check plan-all composition encoders slurm-test chaos \
	faults study study-test golden clean

# Train a small Janus in front of you (about 15 minutes on 2 cores) and open demo/report.html.
demo: $(VENV)/ready
	$(BIN)/unijax demo --run-dir $(RUN)

# Train a small one of each system that draws, on the same pictures, and open gallery/gallery.html.
gallery: $(VENV)/ready
	$(BIN)/unijax gallery --run-dir gallery $(foreach name,$(SYSTEMS),--config configs/$(name)_demo.py)

# What gates every change: linters, floors, then the tests.
test: lint
	$(BIN)/python -m pytest tests --durations=40

# What takes too long for every change: every system over eight devices, whole trainings, coverages,
# the demo from a wheel in an empty environment.
test-long: $(VENV)/ready
	TEST_LONG=1 $(BIN)/python -m pytest tests -m long --durations=40

# The same with the newest Python and the newest of all that is served for it.
test-newest:
	$(MAKE) test PYTHON=$(NEWEST)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Side by side with transformers/PyTorch on this machine; writes docs/benchmarks.md.
bench: $(VENV)/ready
	$(BIN)/python -m bench.janus --write

# Attention through the compilers of TPUs and GPUs, none of which is needed (5 GB of packages), and
# the programs of device-check.
compile-check: $(COMPILE)/ready
	$(COMPILE)/bin/python -m bench.compile_check

# What one GPU can tell in eight minutes, with the Python that is there: see docs/device.md.
device-check:
	$(PYTHON) -m bench.device_check --out $(or $(OUT),.device-check)/results.jsonl

# The step of every full-size config, compiled for the hardware that it names (hours of one core the
# first time; what was compiled before is read from .plan/). Writes the tables of docs/plan.md.
plan-all: $(COMPILE)/ready
	$(COMPILE)/bin/python -m bench.plan_all
	$(COMPILE)/bin/python -m bench.plan_all --scaling

# A larger run on all the data (hours on CPU), then what it never saw together: composition.html.
composition: $(VENV)/ready
	$(BIN)/unijax train --config configs/janus_composition.py --run-dir runs/composition
	$(BIN)/unijax composition runs/composition

# Trains the small encoders that the demo starts from (two hours on 2 cores) into assets/weights.
encoders: $(VENV)/ready
	$(BIN)/python assets/weights/make.py

# A SLURM of one node, started here: a sweep that is preempted ends as one that is not (minutes).
slurm-test: $(VENV)/ready
	SLURM_TEST=1 JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/slurm -n 0 -s

# Kills a training run 50 times at random moments; what is left must equal one that was let alone.
chaos: $(VENV)/ready
	$(BIN)/python -m tests.chaos --dir runs/chaos

# Errors, kills and losses of power at every call of a save (hours); see docs/verification.md.
faults: $(VENV)/ready
	LD_PRELOAD=$$($(BIN)/python -c "from tests.faults.shim import build; print(build())") \
		$(BIN)/python -m tests.faults.saves runs/faults
	$(BIN)/python -m tests.faults.kills runs/kills
	$(BIN)/python -m tests.faults.memory runs/memory
	$(BIN)/python -m tests.faults.memory runs/memory --janus

# The scaling study of docs/study.md: hours on CPU, goes on where it was; tables to docs/study.
study: $(VENV)/ready
	$(BIN)/python -m bench.study --dir runs/study

# Every step of it with models that learn nothing: minutes.
study-test: $(VENV)/ready
	$(BIN)/python -m bench.study --dir runs/study-test --small

# Rewrites the golden files; review the diff.
golden: $(VENV)/ready
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest tests -k golden

$(VENV)/ready: requirements.txt requirements-oracles.txt setup.py
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -r requirements.txt $(JAX:%=jax==%)
	$(BIN)/python -m pip install -q --no-deps -r requirements-oracles.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

$(COMPILE)/ready:
	$(PYTHON) -m venv $(COMPILE)
	$(COMPILE)/bin/python -m pip install -q -e . "jax[cuda13,tpu]$(if $(JAX),==$(JAX),>=0.10.2,<0.13)"
	touch $@

clean:
	rm -rf .venv .venv-* $(RUN)
