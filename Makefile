# Every target works on a fresh machine with Python 3.11 or newer: it builds .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env constraints audit demo test chaos simulate soak prove prove-mteb fuzz vista-tiny lint bench bench-gpu bench-sources bench-scale bench-backfill bench-evaluate bench-finetune bench-forecast bench-index bench-search bench-serve clean
.DEFAULT_GOAL := env

env: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("vista needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/python -m pipelines.sample_catalog .demo/catalog
	$(BIN)/vista embed --source .demo/catalog/catalog.parquet --db .demo/db --table shapes --store-images
	$(BIN)/vista index --db .demo/db --table shapes
	$(BIN)/vista search --db .demo/db --table shapes --text 'a red circle on a white background' --k 5
	$(BIN)/vista search --db .demo/db --table shapes --image .demo/catalog/query.png --k 5
	$(BIN)/vista search --db .demo/db --table shapes --image .demo/catalog/query.png --text 'this but green' --k 5
	@echo "To search it in a browser: $(BIN)/vista serve --db .demo/db --table shapes"

test: env
	# In the order of the files: that by number of tests would leave the longest files to the end.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/jobs/test_jobs.py
	$(BIN)/python -m pytest tests/jobs/test_jobs.py  # separately: a machine has only one port for Ray's job agent

chaos: env
	VISTA_CPUS=4 $(BIN)/python -m pytest -m chaos

# SEEDS worlds, in each of which a seed decides who dies, what the store answers, and when clocks go wrong.
simulate: env
	$(BIN)/python -m tests.simulate --seeds $(or $(SEEDS),200)

# MINUTES of nights on a real S3 server and a real Ray, with kills, other writers and readers; then a report.
soak: env
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30)

# Proofs by real weights: WEIGHTS is a folder with those that were released, or the word hub; IMAGES one with the images.
prove: env
	$(BIN)/python -m pytest -m prove -s tests/prove/test_text_ability.py
	$(BIN)/python -m vista_core.prove --weights $(or $(WEIGHTS),hub) $(if $(IMAGES),--images $(IMAGES))

# mteb has requirements of its own.
prove-mteb:
	$(PYTHON) -m venv .venv-mteb
	.venv-mteb/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,mteb]'
	.venv-mteb/bin/python -m pytest -m prove tests/prove/test_mteb.py

fuzz: env
	$(BIN)/python -m tests.fuzz.run --inputs 100000

# Trains vista-tiny anew, on a catalog that the project draws; takes 23 minutes on two cores.
vista-tiny: env
	$(BIN)/python -m pipelines.drawings .tiny/data
	$(BIN)/python -m tools.make_vista_tiny start .tiny/start
	for stage in 1 2 3; do $(BIN)/vista finetune --config recipes/vista-tiny-$$stage.toml || exit; done
	$(BIN)/vista evaluate --task .tiny/data/eval/cir --db .tiny/db --model .tiny/vista-tiny --output .tiny/cir --by kind
	$(BIN)/vista evaluate --task .tiny/data/eval/t2i --db .tiny/db --model .tiny/vista-tiny --output .tiny/t2i --by kind
	$(BIN)/python -m tools.make_vista_tiny install .tiny

# Versions of all packages, for every Python that the project takes; `make constraints UPGRADE=--upgrade` moves them on.
constraints: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra gs --extra delta --universal --python-version 3.11 \
	  --no-header --no-annotate --quiet $(UPGRADE) --output-file constraints.txt

# Known vulnerabilities of these versions, from the advisories of the Python Packaging Authority. It needs the internet, and
# fails if a package could not be looked up.
audit: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	mkdir -p .bench
	$(BIN)/python -m benchmarks.encoder --output .bench/encoder.json
	$(BIN)/python -m benchmarks.decoding --output .bench/decoding.json
	$(BIN)/python -m benchmarks.job --output .bench/job.json
	$(BIN)/python -m benchmarks.plot .bench docs/bench.png

bench-gpu: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.gpu .bench

bench-sources: env
	$(BIN)/python -m benchmarks.sources

bench-scale: env
	$(BIN)/python -m benchmarks.scale --rows 1000000
	$(BIN)/python -m benchmarks.scale --rows 10000000

bench-backfill: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.backfill

bench-evaluate: env
	$(BIN)/python -m benchmarks.evaluate

bench-finetune: env
	$(BIN)/python -m benchmarks.finetune

bench-forecast: env
	$(BIN)/python -m benchmarks.forecast

bench-index: env
	$(BIN)/python -m benchmarks.index

bench-search: env
	$(BIN)/python -m benchmarks.search

bench-serve: env
	$(BIN)/python -m benchmarks.serve

clean:
	rm -rf .venv .venv-mteb .demo .bench .tiny
