# A machine with Rust needs no more than `make demo` and `make test`: each gets what it lacks and says so.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build demo test torture bench soak lint fmt ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the release binary, target/release/warrend
	cargo build --release --locked

demo: ## the main job: items in, robots, a crash midway, a ledger that balances
	@python=$$(scripts/python) && WARREND_PYTHON=$$python exec "$$python" scripts/demo

# Tests mostly wait: for brokers, and for what they broke to heal.
TEST_THREADS ?= 8
test: ## all tests, against a real broker (see scripts/broker)
	@scripts/broker prepare
	@python=$$(scripts/python) && WARREND_PYTHON=$$python cargo test --locked -- --test-threads=$(TEST_THREADS)

bench: ## what the lanes cost beside the broker itself (BENCH="--items 20000": its arguments)
	@scripts/bench $(BENCH)

soak: ## a million items waiting in the mirror, the broker and the tap: figures of the release build
	@scripts/broker prepare
	cargo build --release --locked
	WARREND_SOAK_ITEMS=$${WARREND_SOAK_ITEMS:-1000000} WARREND_TEST_BINARY="$${CARGO_TARGET_DIR:-target}/release/warrend" \
		cargo test --locked --test warrend load::waiting::many -- --nocapture --test-threads 1

SECONDS ?= 600
SEED ?= 42
torture: ## everything is broken again and again, and the books are checked: SECONDS=600 SEED=42
	@scripts/broker prepare
	WARREND_TORTURE_SECONDS=$(SECONDS) WARREND_TEST_SEED=$(SEED) cargo test --locked --test warrend torture::whatever -- --nocapture

lint: ## formatting and clippy, warnings are errors
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

fmt: ## formats the code
	cargo fmt

ci: ## what the pipeline runs: lint, tests on two brokers, demo
	@.ci/run

clean: ## removes target/
	cargo clean
