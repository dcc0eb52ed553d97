#!/usr/bin/env bash
# What of the core the simulation reaches by itself: line coverage of crates/ha over so many seeds, and the lines that no
# seed reached. Needs the component llvm-tools (rustup component add llvm-tools).
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="${1:-1000}"
sysroot="$(rustc --print sysroot)"
host="$(rustc -vV | sed -n 's/^host: //p')"
tools="$sysroot/lib/rustlib/$host/bin"
if [ ! -x "$tools/llvm-cov" ]; then
    echo "sim-coverage: llvm-cov is missing: rustup component add llvm-tools" >&2
    exit 1
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/ptarmigan/target}/coverage"
profiles="$(mktemp -d)"
trap 'rm -rf "$profiles"' EXIT
# Build scripts are instrumented too.
export LLVM_PROFILE_FILE="$profiles/build/%p.profraw"
RUSTFLAGS="-C instrument-coverage" cargo build --quiet --package ptarmigan-sim
LLVM_PROFILE_FILE="$profiles/%p.profraw" "$CARGO_TARGET_DIR/debug/ptarmigan-sim" --seeds "$seeds"
"$tools/llvm-profdata" merge --sparse "$profiles"/*.profraw --output "$profiles/sim.profdata"
binary="$CARGO_TARGET_DIR/debug/ptarmigan-sim"
sources=(crates/ha/src/*.rs crates/ha/src/*/*.rs)
"$tools/llvm-cov" report "$binary" --instr-profile "$profiles/sim.profdata" --sources "${sources[@]}" \
    --show-region-summary=false --show-branch-summary=false |
    awk '/^Filename/ || /\.rs / || /^TOTAL/ { print }'
echo
echo "lines that no seed reached:"
"$tools/llvm-cov" show "$binary" --instr-profile "$profiles/sim.profdata" --sources "${sources[@]}" |
    awk -F '|' '/\.rs:$/ { file = $0; sub(/^.*crates\//, "crates/", file) }
                $1 ~ /^ *[0-9]+$/ && $2 ~ /^ *0$/ { sub(/^ */, "", $1); print file $1 ":" $3 }'
