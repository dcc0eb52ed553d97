#!/bin/sh
# Runs every test. Whole daemons run on etcd, and those that are not about one of the two stores on Consul too; with the
# variable DCS on that store alone.
set -eu
cd "$(dirname "$0")/.."

# What is about etcd or Consul itself runs once.
daemons='(binary(daemon) | binary(patroni))'
once='test(/^(consul|short_lease)::/)'
status=0

if ! cargo nextest --version >/dev/null 2>&1; then
    for store in ${DCS:-etcd3}; do
        DCS=$store cargo test --workspace --lib --bins --tests --no-fail-fast -- --test-threads=4
    done
    [ -n "${DCS:-}" ] || DCS=consul cargo test --test daemon --test patroni --no-fail-fast -- --test-threads=4
    exit
fi
cargo nextest run --workspace --no-fail-fast || status=$?
if [ -z "${DCS:-}" ]; then
    printf '\n=== whole daemons on Consul\n'
    DCS=consul cargo nextest run --package ptarmigan --no-fail-fast -E "$daemons & !($once)" || status=$?
fi
exit $status
