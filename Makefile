# The things people do with a checkout. Everything that is built or downloaded lives under SLUICE_CACHE, which
# may be absent, empty or kept from an earlier run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

SLUICE_CACHE ?= $(if $(HOME),$(HOME),/tmp)/.cache/sluice
CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target
export SLUICE_CACHE CARGO_TARGET_DIR

CARGO := cargo
export PATH := $(SLUICE_CACHE)/tools/bin:$(PATH)
# `make verify DENY=` adds the advisories, whose database is fetched from its repository.
DENY ?= bans licenses sources
# `make bench PART=ingest`: one part, or several.
PART ?=
# `make test KIND=redis`, `make conformance KIND=redis`, `make bench-sinks KIND=redis`: one kind of connector.
KIND ?=
ROWS := $(SLUICE_CACHE)/conformance
DEMO_FLAGS := $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: help setup demo test conformance outages check-sinks verify fix bench bench-sinks

help:
	@echo 'make setup          install what the build and the tests need (Debian: apt; elsewhere: says what is missing)'
	@echo 'make demo [KEEP=1]  build, start three nodes, kill one half-way, print what arrived'
	@echo 'make test [KIND=…]  every check and every test, with real servers; or those of one kind of connector'
	@echo 'make conformance [KIND=…]'
	@echo '                    put every kind of connector through the whole suite and write docs/conformance.md'
	@echo 'make outages [KIND=…]'
	@echo '                    break every target and its node, and write docs/outages.md'
	@echo 'make verify         format, lints, documentation, dependencies, tidiness; writes nothing'
	@echo 'make check-sinks    compile the program with each kind of sink alone'
	@echo 'make fix            format and apply lint suggestions'
	@echo 'make bench [PART=…] measure beside other products (30 minutes) and write docs/performance.md;'
	@echo '                    parts: ingest end-to-end sink metadata failover idle'
	@echo 'make bench-sinks [KIND=…]'
	@echo '                    measure every kind of connector beside its target'"'"'s own tool (15 minutes), into the same page'

setup:
	@scripts/setup all

demo:
	@scripts/setup build
	$(CARGO) build --locked --workspace --bin sluice
	$(CARGO_TARGET_DIR)/debug/sluice demo $(DEMO_FLAGS)

# One build of all targets: the tests start the `sluice` program that it leaves in the target folder.
ifeq ($(KIND),)
test: setup verify
	$(CARGO) build --locked --workspace --all-targets
	$(CARGO) test --locked --workspace
else
test: setup
	$(CARGO) build --locked --workspace --all-targets
	$(CARGO) test --locked --workspace --lib -- sinks::$(KIND)::
	$(CARGO) test --locked --workspace --test conformance -- --exact $(KIND) --nocapture
endif

# The suite of `make test` with all its counts: about ten minutes for each kind, two kinds at a time.
conformance: setup
	$(CARGO) build --locked --workspace --all-targets
	SLUICE_CONFORMANCE=full SLUICE_CONFORMANCE_PAGE=$(CURDIR)/docs/conformance.md SLUICE_CONFORMANCE_ROWS=$(ROWS) \
	  $(CARGO) test --locked --workspace --test conformance -- --nocapture --test-threads 2 $(if $(KIND),--exact $(KIND))

# Of the same suite the cases in which something fails, with all their counts.
outages: setup
	$(CARGO) build --locked --workspace --all-targets
	SLUICE_CONFORMANCE=full SLUICE_CONFORMANCE_CASES=restart,fail_over,pause,faults,node_killed \
	  SLUICE_OUTAGES_PAGE=$(CURDIR)/docs/outages.md SLUICE_CONFORMANCE_ROWS=$(SLUICE_CACHE)/outages \
	  $(CARGO) test --locked --workspace --test conformance -- --nocapture --test-threads 2 $(if $(KIND),--exact $(KIND))

# A program with each kind of sink alone, and with none: the first time about ten minutes.
SINKS := $(shell sed -n 's|^[a-z0-9]* = \["connector-runtime/\([a-z0-9]*\)"\]$$|\1|p' broker-node/Cargo.toml | grep -v default)
check-sinks:
	for sink in '' $(SINKS); do echo "== $${sink:-none}"; \
	  $(CARGO) check --locked -p broker-node --no-default-features --features "$$sink"; done

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	@if command -v cargo-deny >/dev/null; then cargo deny --all-features --log-level error check $(DENY); \
	else echo 'verify: cargo-deny is not installed; licences, sources and bans were not checked'; fi
	$(CARGO) test --locked --workspace --test tidy

fix:
	$(CARGO) fmt --all
	$(CARGO) clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

# RocksDB sums up every byte it writes and reads (CRC-32C). Built for the first x86-64 it does so in software, which was
# an eighth of the CPU time of ingest; every x86 since 2010 has an instruction for it.
bench bench-sinks: export CXXFLAGS_x86_64_unknown_linux_gnu := -msse4.2 -mpclmul

# The program that is measured is the release build, and so is the runner: some peers are loops of its own. Peers that
# cannot be had are left out.
MEASURE := $(CARGO) build --locked --release --workspace --bin sluice --bin sluice-bench && \
  SLUICE_BIN=$(CARGO_TARGET_DIR)/release/sluice $(CARGO_TARGET_DIR)/release/sluice-bench --write docs/performance.md

bench:
	@scripts/setup bench
	$(MEASURE) $(PART)

bench-sinks:
	@scripts/setup all
	@scripts/setup bench
	$(MEASURE) $(if $(KIND),$(addprefix sinks-,$(KIND)),sinks)
