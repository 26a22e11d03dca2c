# make demo    train the demo model and prompt it
# make grok    train five models on division modulo 97, together, until they have found the rule
# make test    run the tests
# make check   what the continuous integration runs: linter and tests
# make nightly the tests that take minutes: kills at random moments, thousands of steps, real launchers
# make floors  the tests with the oldest versions that pyproject.toml allows
# make matrix  the tests of the models under every minor release of transformers (ONLY=newest: under the newest alone)
#
# make TORCH_INDEX=URL ... takes torch from another wheel index, one with CPU or CUDA builds, say.

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo grok test nightly floors matrix lint format check clean

demo: .venv/ready
	@if [ -f runs/demo/metrics.json ]; then \
		echo "runs/demo is trained already; here is another story of its own:"; \
		$(BIN)/python generate.py runs/demo --seed $$$$; \
	else \
		$(BIN)/python train_lm.py configs/lm/demo.yaml training.resume_from_checkpoint=true; \
	fi

grok: .venv/ready
	@if [ -f runs/fast/metrics.json ]; then \
		echo "runs/fast is finished; delete it to run it again, or prompt it:"; \
		$(BIN)/python generate.py runs/fast/seed=0 --prompt "91 / 7 =" --temperature 0; \
	else \
		$(BIN)/python train_algorithmic.py configs/algorithmic/fast.yaml training.resume_from_checkpoint=true; \
	fi

test: .venv/ready
	$(BIN)/python -m pytest

nightly: .venv/ready
	$(BIN)/python -m pytest -m slow

floors: .venv-floors/ready
	.venv-floors/bin/python -m pytest

matrix: .venv/ready
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python tests/matrix.py $(if $(ONLY),--only $(ONLY))

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

# The environment is ready once everything pinned in constraints.txt is installed.
.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Kindling needs Python 3.11 or newer; set PYTHON=')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Each dependency at its floor in pyproject.toml; pip refuses floors that conflict.
.venv-floors/ready: pyproject.toml
	$(PYTHON) -m venv .venv-floors
	grep -oE '"[A-Za-z_-]+>=[0-9.]+"' pyproject.toml | grep -v setuptools | tr -d '"' | sed 's/>=/==/' > .venv-floors/floors.txt
	.venv-floors/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
		$$(grep '^torch==' .venv-floors/floors.txt)
	.venv-floors/bin/python -m pip install --quiet --constraint .venv-floors/floors.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-floors .venv-matrix .pytest_cache .ruff_cache .hypothesis
