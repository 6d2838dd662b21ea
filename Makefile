# `make demo` and `make test` need nothing but git, make and python3; each makes .venv itself.
.POSIX:
.PHONY: setup dev demo test check audit bench bench-poll soak format fresh lock image dist clean help

BIN = .venv/bin
SUITE = bookworm
TESTS =

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | column -t -s: 2>/dev/null || sed -n 's/^\([a-z-]*\):.*## /\1 - /p' Makefile

setup: ## make .venv with the harborguard-sensor command in it
	@.ci/setup run

dev: ## setup, and what the tests need
	@.ci/setup dev

demo: setup ## run the main job on embedded defaults (ONCE=1: one sweep, then exit; ADVISORIES=DIR: a full set)
	@$(BIN)/harborguard-sensor demo $(if $(ONCE),--once) $(if $(ADVISORIES),--advisories $(ADVISORIES))

test: dev ## run every test, in random order, with the coverage gates
	@$(if $(TESTS),$(BIN)/python -m pytest $(TESTS),$(BIN)/python -m coverage erase && $(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report= && $(BIN)/python .ci/coverage_gate)

check: dev ## static gates, and a smoke run of the built wheel
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@.ci/wheel

audit: setup ## judge the locked dependencies without a network (ADVISORIES=DIR: a state directory, or OSV's files)
	@$(BIN)/python .ci/audit $(ADVISORIES)

format: dev ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: dev ## compare with Syft, Trivy and the floor on real images (takes minutes, needs root for debootstrap)
	@.ci/setup tools debootstrap
	@$(BIN)/python -m benchmarks.compare $(BENCH)

bench-poll: dev ## what looking at a registry of 200,000 tags costs, twice
	@$(BIN)/python -m benchmarks.poll $(BENCH)

soak: dev ## half an hour of churn: memory, files, tasks and database flat, heartbeat on time, nothing lost (BENCH="--minutes 5")
	@$(BIN)/python -m benchmarks.soak $(BENCH)

fresh: ## prove both commands on a bare Debian root made by debootstrap (needs root; SUITE=trixie, QUICK=1)
	@.ci/fresh $(SUITE) $(if $(QUICK),quick)

image: ## build the container image into dist/image from a local base, and prove it (needs root)
	@.ci/image

dist: dev ## what a site without network needs, in dist: archive, image, SBOMs, checksums; proved without network (needs root)
	@.ci/dist

lock: dev ## renew the hashed locks from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" pyproject.toml -o requirements/runtime.lock
	@.ci/slim-lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements/dev.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" requirements/build.in -o requirements/build.lock
	@$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --custom-compile-command "make lock" requirements/bench.in -o requirements/bench.lock

clean: ## remove everything that the other targets made
	rm -rf .venv .cache build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
