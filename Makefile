# Two commands do all the set-up on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3.11
EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv venv-peers demo test acceptance lint lock flink clean

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

venv: $(VENV)/.ready  ## Make .venv from the pinned lock (EXTRA=gpu on a machine with an NVIDIA GPU)

$(VENV)/.ready: requirements/$(EXTRA).lock setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$(EXTRA).lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

venv-peers: .venv-peers/.ready  ## Make .venv-peers, what benchmarks compare with (PyTorch)

.venv-peers/.ready: requirements/peers.lock
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peers.lock
	touch $@

demo: venv  ## Simulate a shop, then ingest, train, index, evaluate and recommend
	$(BIN)/recsys demo

test: venv  ## Lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

acceptance: venv flink  ## The runs behind docs/evidence (hours, real data needed); each goes on where it was stopped
	$(BIN)/python benchmarks/ingest.py --evidence
	$(BIN)/python benchmarks/train_retrieval.py --evidence
	$(BIN)/python benchmarks/train_ranking.py --evidence
	$(foreach data,ml-100k globo-news gowalla,$(BIN)/python benchmarks/quality_retrieval.py --data $(data) --evidence &&) true
	$(BIN)/python benchmarks/ssl_acceptance.py --evidence
	$(foreach data,ml-100k simulator,$(BIN)/python benchmarks/ssl_ablation.py --data $(data) --evidence &&) true
	$(foreach data,ml-100k simulator,$(BIN)/python benchmarks/sampling_correction.py --data $(data) --evidence &&) true
	$(foreach data,synthetic ml-100k,$(BIN)/python benchmarks/tower_gates.py --data $(data) --evidence &&) true
	$(BIN)/python benchmarks/optfs_planted_noise.py --evidence
	$(foreach data,frappe ml-100k globo-news simulator,$(BIN)/python benchmarks/quality_ranking.py --data $(data) --evidence &&) true
	$(BIN)/python benchmarks/joint_tasks.py --evidence

lint: venv  ## Mend what can be mended and report the rest
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

flink: tools/flink/target/.ready  ## Gather the embedded Flink for ingestion beyond one machine's memory (Java, Maven)

tools/flink/target/.ready: tools/flink/pom.xml
	mvn --quiet --batch-mode --file tools/flink/pom.xml package
	touch $@

lock:  ## Resolve requirements/*.lock again from setup.py and peers.in (needs uv)
	uv pip compile setup.py --extra cpu --extra dev --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/cpu.lock
	uv pip compile setup.py --extra gpu --extra dev --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/gpu.lock
	uv pip compile requirements/peers.in --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/peers.lock

clean:  ## Remove environments, runs and caches
	rm -rf $(VENV) .venv-peers runs .pytest_cache .mypy_cache .ruff_cache
