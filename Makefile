# The whole list of what can be done here; `make help` prints it.
.DEFAULT_GOAL := help
.PHONY: help run serve test test-long check escape fuzz chaos matrix bench tiny-model clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 12

run: ## Set up, then find one number hidden in 1,000,000 lines (scripted model; no key, no Docker, no root)
	@sh deploy/setup_environment.sh run
	@.venv/bin/rlm-service demo

serve: ## Set up, then answer requests of the REST API (RLM_HOST, RLM_PORT; 127.0.0.1:8000)
	@sh deploy/setup_environment.sh run
	@.venv/bin/rlm-service serve

test: ## Set up, then run the tests
	@sh deploy/setup_environment.sh dev
	.venv/bin/pytest -n 2 --dist loadfile -m "not takes_long"

test-long: ## The tests that take long by themselves (CI runs them too)
	@sh deploy/setup_environment.sh dev
	.venv/bin/pytest -n 2 --dist loadgroup -m takes_long

check: ## Lint, format, types, directions of import, and whether the locks are current
	@sh deploy/setup_environment.sh dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python deploy/check_locks.py

escape: ## Try to get out of every sandbox that this machine has (docs/security.md); ESCAPE="--short --seed 1" for less
	@sh deploy/setup_environment.sh dev
	@.venv/bin/python -P -m tests.escape $(ESCAPE)

chaos: ## Kill, pause and fill up everything under load (docs/operations.md); CHAOS="--short --seed 1" for less
	@sh deploy/setup_environment.sh dev
	@.venv/bin/python -P -m tests.chaos $(CHAOS)

fuzz: ## Feed the parsers of hostile input with what nearly fits, led by coverage; FUZZ="--seconds 600" for longer
	@sh deploy/setup_environment.sh dev
	@.venv/bin/python deploy/fetch_apart.py fuzzer || true
	@.venv/bin/python -P -m tests.fuzzing $(FUZZ)

matrix: ## Let other people's clients (SDKs of OpenAI, Anthropic, LangChain, LiteLLM, DSPy) call the service (docs/dialects.md); MATRIX="openai-3" for some
	@sh deploy/setup_environment.sh dev
	@.venv/bin/python -P -m tests.matrix $(MATRIX)

bench: ## Measure this service beside the reference library and the machine (some 25 minutes; docs/performance.md)
	@sh deploy/setup_environment.sh run
	@.venv/bin/python -m benchmarks

tiny-model: ## Fetch a real language model of 135 million parameters for the tests that want one (110 MB)
	@sh deploy/setup_environment.sh dev
	@.venv/bin/python deploy/fetch_apart.py tiny-model

clean: ## Remove the environment and all caches (never your data directory)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find benchmarks deploy sandbox_image service tests -name __pycache__ -type d -prune -exec rm -rf {} +
