# `make demo` shows a failover on this machine, `make test` runs every test. Both install what is missing first.

CARGO_TARGET_DIR ?= $(HOME)/.cache/ptarmigan/target
export CARGO_TARGET_DIR

.PHONY: help setup build test torture demo bench sim sim-bugs sim-coverage lint fmt tidy ci

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## setup   install what building and testing need (only what is missing)
setup:
	@scripts/setup.sh

## build   build the programs
build: setup
	cargo build --workspace --bins

## test    run every test, those of whole daemons on etcd and on Consul; on one of them alone: DCS=etcd3 or DCS=consul
test: build
	@scripts/test.sh

## torture  the primary is killed over and over under synchronous replication, about 25 minutes: make torture ROUNDS=20
torture: build
	PTARMIGAN_TORTURE_ROUNDS=$(or $(ROUNDS),20) cargo test --test daemon synchronous::torture -- --nocapture

## demo    a cluster on this machine, and a failover: make demo ARGS=--keep
demo: setup
	cargo build --package ptarmigan --package ptarmigan-guardian --bins
	"$(CARGO_TARGET_DIR)/debug/ptctl" demo $(ARGS)

## bench   Ptarmigan and Patroni side by side, about 75 minutes: make bench ARGS="--rounds 1 --only idle"
bench: setup
	cargo build --release --package ptarmigan --package ptarmigan-guardian --package ptarmigan-testkit --bins
	"$(CARGO_TARGET_DIR)/release/ptarmigan-bench" $(ARGS)

## sim     whole clusters in virtual time: make sim ARGS="--seeds 1000 --from 1"
sim: setup
	cargo run --quiet --release --package ptarmigan-sim -- $(or $(ARGS),--seeds 10000)

## sim-bugs  planted bugs, and which checker of the simulation catches each
sim-bugs: setup
	cargo run --quiet --release --package ptarmigan-sim -- --bugs

## sim-coverage  how much of the core the simulation reaches, alone and with the table tests: make sim-coverage SEEDS=1000
sim-coverage:
	@scripts/sim-coverage.sh $(SEEDS)

## lint    clippy, warnings are errors
lint:
	cargo clippy --workspace --all-targets -- -D warnings

## fmt     format the code
fmt:
	cargo fmt --all

## tidy    the house rules that clippy cannot check
tidy:
	cargo run --quiet --package xtask -- tidy

## ci      everything that continuous integration runs
ci:
	.ci/run
