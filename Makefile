# Needs GNU make and Python 3.11 or later; everything else is installed into .venv by the first target that needs it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

TRANSFORMERS_VERSION := $(shell sed -n 's/^transformers==//p' constraints.txt)
TRANSFORMERS_SOURCE := $(VENV)/transformers-source/$(TRANSFORMERS_VERSION)
TRANSFORMERS_TESTS := $(TRANSFORMERS_SOURCE)/tests/__init__.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-zA-Z_.-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) ## Make .venv with the package and its development tools (the other targets do it by themselves)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is not Python 3.11 or later; name one that is: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: quickstart
quickstart: $(INSTALLED) ## Generate products, train on them, measure retrieval, show the nearest images (minutes, no download)
	$(BIN)/python training/quickstart.py

.PHONY: toy-catalog
toy-catalog: $(INSTALLED) ## Write generated products and an image of them to outputs/toy_catalog
	$(BIN)/python -m modeling_eclip.toy --output_dir outputs/toy_catalog

# Two workers with one thread each: small models gain nothing from more threads and lose much to contention. One that
# is done takes tests from the other, so that both end together.
# Tests need no Hub: offline mode turns an accidental request into an error instead of a wait.
.PHONY: test
test: export OMP_NUM_THREADS ?= 1
test: export HF_HUB_OFFLINE ?= 1
test: export TOKENIZERS_PARALLELISM ?= false
test: $(INSTALLED) ## Run all tests, some 20 minutes on 2 cores, and list the ten slowest (PYTEST_ARGS="-k name" for some)
	@$(MAKE) --no-print-directory transformers-tests || echo "The source distribution of transformers" \
		"$(TRANSFORMERS_VERSION) could not be had: tests/test_common_model.py will be skipped." >&2
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=10 $(PYTEST_ARGS) tests

.PHONY: test-machines
test-machines: $(INSTALLED) ## Run the numeric tests under twelve kinds of CPU, print the table (MACHINES_ARGS=--quick for two)
	$(BIN)/python tests/cpu_kinds.py $(MACHINES_ARGS)

OLDEST := .venv-oldest

# The tests of what training and the package ask of other libraries; the common model tests are of one transformers.
.PHONY: test-oldest
test-oldest: export OMP_NUM_THREADS ?= 1
test-oldest: export HF_HUB_OFFLINE ?= 1
test-oldest: export TOKENIZERS_PARALLELISM ?= false
test-oldest: $(OLDEST)/.installed ## Run the tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal --ignore tests/test_common_model.py $(PYTEST_ARGS) tests

$(OLDEST)/.installed: pyproject.toml tests/lower_bounds.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet -c $(OLDEST)/constraints.txt -e ".[dev]"
	@touch $@

.PHONY: transformers-tests
transformers-tests: $(TRANSFORMERS_TESTS) ## Fetch transformers' own model tests (once), which tests/test_common_model.py runs

# Its wheel holds no tests; its source distribution does.
$(TRANSFORMERS_TESTS): | $(INSTALLED)
	mkdir -p $(TRANSFORMERS_SOURCE)
	$(BIN)/pip download --quiet --no-deps --no-binary transformers --dest $(TRANSFORMERS_SOURCE) \
		transformers==$(TRANSFORMERS_VERSION)
	tar -xzf $(TRANSFORMERS_SOURCE)/transformers-$(TRANSFORMERS_VERSION).tar.gz -C $(TRANSFORMERS_SOURCE) \
		--strip-components=1 transformers-$(TRANSFORMERS_VERSION)/tests
	@touch $@

.PHONY: bench
bench: $(INSTALLED) ## Measure against peers (PEER_PYTHON=an interpreter that has open_clip; BENCH_ARGS="--only loss")
	@$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,bench]" || echo "The peers of the extra 'bench' could" \
		"not be had: their rows will be empty." >&2
	$(BIN)/python tests/benchmarks/bench.py $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) $(BENCH_ARGS)

.PHONY: report
report: $(INSTALLED) ## The paper's claim on real data: pre-train, learn five tasks, write outputs/report (hours, resumable)
	$(BIN)/python training/report.py --config training/configs/report.yaml $(REPORT_ARGS)

.PHONY: report-fast
report-fast: $(INSTALLED) ## The same of a part of it, in ten minutes, to outputs/report-fast
	$(BIN)/python training/report.py --config training/configs/report_fast.yaml $(REPORT_ARGS)

# The quickstart's checkpoint; another one with CHECKPOINT=, and data of your own with DEMO_ARGS="--train_data ...
# --test_data ...": heads learn from the first, and the demo searches among the second.
DEMO_ARGS ?= --train_data toy
CHECKPOINT ?= outputs/quickstart
DEMO_DATA ?= outputs/demo-$(notdir $(CHECKPOINT))

.PHONY: demo
demo: $(INSTALLED) ## A page in the browser: search by words and image, five tasks on a product (after make quickstart)
	@test "$(CHECKPOINT)" != outputs/quickstart -o -e outputs/quickstart/model.safetensors || $(MAKE) quickstart
	$(BIN)/python training/build_demo.py --checkpoint $(CHECKPOINT) --output_dir $(DEMO_DATA) $(DEMO_ARGS)
	$(BIN)/python examples/demo/app.py --data $(DEMO_DATA)

.PHONY: prepare-demo
prepare-demo: $(INSTALLED) ## Generate raw offers, and a corpus of them, in outputs/ (a minute)
	$(BIN)/python training/corpus/toy_raw_offers.py --output_dir outputs/toy_raw
	$(BIN)/python training/prepare.py --config training/configs/prepare.yaml --id_column offer_id \
		--input outputs/toy_raw/raw.parquet --output_dir outputs/toy_corpus $(PREPARE_ARGS)

.PHONY: quality
quality: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: style
style: $(INSTALLED) ## Repair style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove caches and builds (.venv and outputs stay)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -path "./.venv*" -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
