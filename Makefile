# Two commands: `make demo` shows the whole chain, `make test` proves it. Each makes .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without it pytest-xdist's two processes would each start as many threads as there are cores.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
# A module's tests run in one process: they share what it has trained.
PYTEST := $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: demo test tests quick lint bench kernel kernel-versions licences sbom audit clean

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(STAMP)
	$(BIN)/histofold demo --out demo

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick: $(STAMP)
	$(PYTEST) -m "not slow"

tests: $(STAMP)
	$(PYTEST)

# Types are checked beside the tests: alone they would leave a core idle.
test: $(STAMP)
	$(MAKE) --jobs=2 lint tests

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/bench_rle.py
	$(BIN)/python benchmarks/bench_objects.py
	$(BIN)/python benchmarks/bench_tiled.py
	$(BIN)/python benchmarks/bench_results.py
	$(BIN)/python benchmarks/bench_slide.py
	$(BIN)/python benchmarks/bench_tiles.py
	$(BIN)/python benchmarks/bench_synth.py
	$(BIN)/python benchmarks/bench_augment.py
	$(BIN)/python benchmarks/bench_loader.py
	$(BIN)/python benchmarks/bench_train_step.py

kernel: $(STAMP)
	$(BIN)/histofold kernel hubmap_2022
	$(BIN)/histofold kernel kidney_2020
	$(BIN)/histofold kernel sennet_2024
	$(BIN)/histofold kernel vasculature_2023
	$(BIN)/histofold kernel vrdl_nuclei

# With the versions of Kaggle's image, on each Python that is here: some gigabytes to download for each.
kernel-versions: $(STAMP)
	$(BIN)/python benchmarks/kernel_versions.py

# The licence of every package that the pinned requirements and the extras of the tests bring in.
licences: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-licenses
	printf '# Licences\n\nOf what the pinned requirements and the extras of the tests install; written by `make licences`.\n\n' > docs/licences.md
	$(BIN)/pip-licenses --from=mixed --order=license --format=markdown --ignore-packages histofold \
		| sed -E 's/ +\|/ |/g; s/-{3,}/---/g' >> docs/licences.md

# What is installed, as CycloneDX.
sbom: $(STAMP)
	$(BIN)/python -m pip install --quiet cyclonedx-bom
	$(BIN)/cyclonedx-py environment --output-format JSON --output-file sbom.json $(BIN)/python

# Known vulnerabilities of the pinned requirements; it asks PyPI.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --disable-pip --no-deps --requirement requirements.txt

clean:
	rm -rf $(VENV) demo
