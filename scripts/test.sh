#!/bin/sh
# Runs every test. Whole daemons run on etcd, and those that are not about one of the two stores on Consul too; with the
# variable DCS on that store alone.
set -eu
cd "$(dirname "$0")/.."

# Once: what is about one store, and what needs a lease shorter than Consul takes.
daemons='(binary(daemon) | binary(patroni))'
once='test(/^(consul|short_lease|fence_ways)::/) | test(/^fence_steps::.*a_switchover/)'
status=0

if ! cargo nextest --version >/dev/null 2>&1; then
    DCS=${DCS:-etcd3} cargo test --workspace --lib --bins --tests --no-fail-fast -- --test-threads=3 || status=$?
    if [ -z "${DCS:-}" ]; then
        DCS=consul cargo test --test daemon --test patroni --no-fail-fast -- --test-threads=3 || status=$?
    fi
    exit $status
fi
cargo nextest run --workspace --no-fail-fast || status=$?
if [ -z "${DCS:-}" ]; then
    printf '\n=== whole daemons on Consul\n'
    DCS=consul cargo nextest run --package ptarmigan --no-fail-fast -E "$daemons & !($once)" || status=$?
fi
exit $status
