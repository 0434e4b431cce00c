# Every target sets itself up: the first one makes the virtual environment from the lock.
PYTHON ?= python3
BIN := .venv/bin
# Tests share one folder of compiled programs, also of small ones: a second run compiles next to nothing.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1
PYTEST := $(BIN)/python -m pytest

.PHONY: install demo test test-configs test-docs test-slow parity lint fix lock docs show scale claims clean

install: .venv/installed

.venv/installed: lock/cpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cropjax needs Python >= 3.11: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r lock/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/python -m cropjax.main --config configs/demo.py

test: install lint
	$(PYTEST) -m "not slow and not gpu and not torch and not data" -n 2 --dist worksteal

test-configs: install
	$(PYTEST) tests/test_configs.py

test-docs: install
	$(PYTEST) tests/test_docs.py -m ""

test-slow: install
	$(PYTEST) -m slow

# Upstream's networks, in environments of their own, give again what is in tests/reference, and ours give it too.
REFERENCE := .cache/reference
REFERENCE_PYTHON ?= python3.11
parity: install $(foreach kit,mmsegmentation transformers cityscapesscripts,$(REFERENCE)/$(kit)/installed)
	$(BIN)/python third_party/compare.py mmsegmentation=$(REFERENCE)/mmsegmentation \
		transformers=$(REFERENCE)/transformers cityscapesscripts=$(REFERENCE)/cityscapesscripts
	$(BIN)/python third_party/round_trip.py mmsegmentation=$(REFERENCE)/mmsegmentation \
		transformers=$(REFERENCE)/transformers
	$(PYTEST) tests/test_parity.py tests/test_op_parity.py tests/test_huggingface_parity.py -m ""
	$(PYTEST) tests/benchmark/test_rivals.py -m torch

$(REFERENCE)/%/installed: third_party/%/requirements.txt
	$(REFERENCE_PYTHON) -m venv $(@D)
	grep ^torch== $< | xargs -r $(@D)/bin/python -m pip install --quiet # with what this platform's build of it needs
	$(@D)/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The lock serves every Python that pyproject.toml allows, and names no index.
UV_COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --extra dev pyproject.toml
lock:
	$(UV_COMPILE) --output-file lock/cpu.txt
	$(UV_COMPILE) --extra cuda12 --output-file lock/cuda12.txt

# The pages that are made of the code.
docs: install
	$(BIN)/python docs/configuration.py
	$(BIN)/python docs/api.py

# Every measurement of docs/results.md but those of `parity`. GOLDEN: folder of upstream's tensors, of which some bounds
# are known to be missed (docs/results.md), so that what follows runs all the same; CAMVID: folder of CamVid.
NETWORKS := deeplabv3plus pspnet segformer segnext
show: install
	-$(if $(GOLDEN),$(BIN)/python tests/show/golden.py $(GOLDEN),@echo "GOLDEN is not set: parity with it was not run")
	$(BIN)/python tests/show/parity.py
	$(PYTEST) tests/test_parity.py tests/test_op_parity.py tests/test_huggingface_parity.py \
		tests/test_devices.py -m ""
	set -e; for network in $(NETWORKS); do for dtype in float64 float32; do \
		XLA_FLAGS=--xla_force_host_platform_device_count=8 $(BIN)/python tests/devices.py $$dtype $$network \
		2x1 1x4 8x1 2x4; done; done
	$(BIN)/python tests/show/kill.py
	$(BIN)/python tests/show/streets_speed.py
	set -e; for network in $(NETWORKS); do $(BIN)/python -m cropjax.main --config configs/demo.py:$$network; done
	$(BIN)/python tests/show/repeat.py --config configs/demo.py:segnext
	set -e; for config in deeplab_512 deeplab_769 pspnet_512 pspnet_769; do $(BIN)/python -m cropjax.benchmark \
		--config configs/$$config.py --suites compile,train,memory; done
	$(if $(CAMVID),set -e; for network in deeplab pspnet segformer segnext; do $(BIN)/python -m cropjax.main \
		--config configs/camvid_$$network.py --config.data.root=$(CAMVID); done, \
		@echo "CAMVID is not set: the runs on it were not made")

# The measurements of docs/scale.md. As root on Debian with slurm-wlm, munge, openmpi-bin and iproute2.
scale: install
	set -e; for config in deeplab_769 pspnet_769 segformer_b3_769 segnext_b_769; do \
		$(BIN)/python tests/show/sharded_programs.py $$config; done
	$(BIN)/python tests/show/clusters.py
	$(BIN)/python tests/show/faults.py
	$(BIN)/python tests/show/scaling.py

# What the study states beside what the instruments find; takes 30 to 45 minutes.
claims: install
	$(BIN)/python -m cropjax.instruments.claims docs/claims.md

clean:
	rm -rf .venv .cache runs *.egg-info
