# Both commands of the README share one environment in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PEERS := pool ray dask
# llama.cpp is compiled: minutes.
ENGINE_PEERS := ctranslate2 openvino openvino-convert onnxruntime transformers vllm llamacpp

.PHONY: run test test-slow test-frameworks test-rtc check bench bench-peers bench-engine-peers kill-loop oracle clean

run: $(STAMP)
	$(BIN)/deepserve run examples/quickstart.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" tests/unit
	$(BIN)/python -m pytest -q -m "not slow" --ignore tests/unit tests

# Whole benchmarks, and the kernels for processors that are not here, compiled and emulated.
test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow tests

# OpenAI's Agents SDK, pydantic-ai, LangChain's client and schemathesis, against the API of hosted models.
test-frameworks: $(VENV)/.frameworks
	$(BIN)/python -m pytest -q tests/integration/models/test_openai_frameworks.py tests/integration/models/test_openai_document.py

$(VENV)/.frameworks: $(STAMP) tests/frameworks.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/frameworks.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps openai-agents==0.24.0
	touch $@

# The RTC's states, a hundred times as many as in `test`.
test-rtc: $(STAMP)
	RTC_STATES=100 $(BIN)/python -m pytest -q tests/unit/flowserve/test_rtc_states.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/deepserve bench calls

# Each peer in an environment of its own, for `deepserve bench calls --peers`.
bench-peers: $(PEERS:%=.bench-peers/%/.installed)

.bench-peers/%/.installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv .bench-peers/$*
	.bench-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	if [ -f $(<:.txt=.no-deps.txt) ]; then \
		.bench-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(<:.txt=.no-deps.txt); \
	fi
	if [ -f $(<:.txt=.remove.txt) ]; then \
		.bench-peers/$*/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes -r $(<:.txt=.remove.txt); \
	fi
	touch $@

# Other engines, for `flowserve bench --peers`.
bench-engine-peers: $(ENGINE_PEERS:%=.bench-peers/engine-%/.installed)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[flowserve,dev]"
	touch $@

KILLS ?= 500
SEED ?= 1

kill-loop: $(STAMP)
	$(BIN)/python -m tests.kill_loop --kills $(KILLS) --seed $(SEED)

# Random models of every architecture against transformers, EXAMPLES of each (a quarter of a second for one).
EXAMPLES ?= 500

oracle: $(STAMP)
	FLOWSERVE_ORACLE_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q tests/unit/flowserve/test_oracle.py

clean:
	rm -rf $(VENV) .bench-peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
