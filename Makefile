# Setara: build, run, test. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.SILENT:
MAKEFLAGS += --no-builtin-rules

export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release

.PHONY: help build run stop net test test-long sim fuzz mutants lint bench compat docs

help: ## What there is
	echo "Setara. Each target installs what a fresh Debian machine lacks and says how long it takes."
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
	echo "CARGO_TARGET_DIR says where builds go (now: $(TARGET)); keep it, RocksDB takes long to compile."

build: ## The node and the wallet (first time 20 to 25 min on two cores, 15 of them RocksDB; then seconds)
	scripts/dependencies build
	scripts/stage "building (20 to 25 minutes the first time on two cores, 15 of them RocksDB)"
	cargo build --release --locked --workspace --bins

run: build ## A development node with a throwaway wallet and spendable coins, under .setara-dev
	scripts/run $(BIN)

stop: ## Stop the development node that `make run` left in the background (DETACH=1)
	scripts/run --stop

net: build ## Three nodes that mine in turn, lose one and get it back (NET_BLOCKS=N: end after N blocks)
	scripts/net $(BIN)

test: lint ## Lint, then all tests (about 35 min after the first build, which takes 20 to 25)
	scripts/dependencies faults
	scripts/stage "building the tests (about 10 minutes once the rest is built)"
	cargo build --release --locked --workspace --bins
	cargo test --release --locked --workspace --no-run
	scripts/stage "all tests (about 20 minutes)"
	cargo test --release --locked --workspace
	scripts/dependencies compat
	scripts/stage "clients of other projects against the node (about 2 minutes)"
	tests/compat/run $(BIN)

test-long: build ## Thousands of kills, power cuts and damaged files, millions of damaged inputs (hours)
	scripts/dependencies faults
	scripts/stage "the long suites (hours; SETARA_CRASH_SEED=N for another sequence)"
	SETARA_FUZZ_ROUNDS=1000000 cargo test --release --locked -p setara-core --test decoders
	SETARA_LOW_WORK_HEADERS=10000000 SETARA_PUSHES=1000000 SETARA_MACHINE_SEEDS=10000 \
		cargo test --release --locked --workspace --lib -- low_work_is_not_stored a_soak_of_pushed sync_and_download
	SETARA_TEMPLATES=100000 cargo test --release --locked --workspace --lib -- random_templates
	cargo test --release --locked --workspace --test narrow --test prune --test memory --test snapshot -- --ignored --nocapture \
		--test-threads 1 narrow_ prune_ memory_ snapshot_
	SETARA_KILLS=1000 SETARA_SYNC_KILLS=1000 SETARA_FLIPS=2000 SETARA_POWER_STATES=50000 SETARA_FAILED_SYNCS=200 \
		SETARA_FAILED_WRITES=200 SETARA_STOPS=500 SETARA_INVALID_BLOCKS=1000000 \
		cargo test --release --locked --workspace --test crash --test crash_load --test damage --test faults \
		--test limits --test power --test rebuild --test startup -- --nocapture

SEEDS ?= 1000
sim: ## The network in virtual time under SEEDS seeds (default 1000: about ten minutes)
	scripts/dependencies build
	scripts/stage "simulating the network ($(SEEDS) seeds)"
	SETARA_SIM_SEEDS=$(SEEDS) cargo test --release --locked --workspace --test simulation -- --nocapture honest_nodes

MINUTES ?= 1
fuzz: ## Coverage-guided fuzzing, MINUTES for each target (default 1); docs/testing.md explains it
	scripts/dependencies build
	scripts/stage "building the fuzz targets (about 5 minutes the first time)"
	# Coverage counters are a compiler flag of the stable toolchain; nothing nightly is needed.
	scripts/fuzz $(MINUTES)

mutants: ## Break the rules of setara-core in hundreds of places, one at a time, and see each caught (SHARD=K/N: a part)
	scripts/dependencies build
	scripts/stage "breaking setara-core and running its tests, once for each place (about an hour)"
	SHARD=$(SHARD) scripts/mutants

lint: ## Format and clippy, with cargo-deny where it is installed (first time as long as a build)
	scripts/dependencies build
	scripts/stage "checking format and lints (a few minutes; the first time 15 more, for RocksDB)"
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; fi

SCALE ?= 1000
bench: build ## Benchmarks on this machine, as the table and plot of docs/performance.md (30 min; SCALE=100: a tenth of the sizes)
	scripts/stage "building the benchmarks (about 10 minutes the first time)"
	cargo bench --locked --workspace --benches --no-run
	scripts/stage "benchmarks (about 30 minutes; leave the machine alone meanwhile)"
	cargo bench --locked --workspace --bench table -- $(SCALE)

compat: ## Unmodified Bitcoin clients in Python and JavaScript against a real node (about 2 min)
	scripts/dependencies build compat
	scripts/stage "clients of other projects against the node (about 2 minutes)"
	cargo build --release --locked --workspace --bins
	tests/compat/run $(BIN)

docs: ## docs/rpc.md from the method registry, and the API documentation of all crates
	scripts/dependencies build
	scripts/stage "documentation (a few minutes)"
	UPDATE_DOCS=1 cargo test --release --locked -p setara-api --quiet reference
	cargo doc --release --locked --workspace --no-deps
	echo "docs/rpc.md is up to date; the API: $(TARGET)/doc/setara_core/index.html"
