#!/usr/bin/env bash
# How much of the core is reached: line coverage of crates/ha by so many seeds of the simulation alone, and together with the
# core's own table tests, with the lines that neither reaches. Needs the component llvm-tools (rustup component add llvm-tools).
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
export RUSTFLAGS="-C instrument-coverage"
cargo build --quiet --package ptarmigan-sim
mapfile -t tests < <(cargo test --package ptarmigan-ha --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
simulation="$CARGO_TARGET_DIR/debug/ptarmigan-sim"
sources=(crates/ha/src/*.rs crates/ha/src/*/*.rs)

# What the binaries that follow the profile reach, file by file.
report() {
    local profile="$1" first="$2"
    shift 2
    "$tools/llvm-cov" report "$first" "${@/#/--object=}" --instr-profile "$profile" --sources "${sources[@]}" \
        --show-region-summary=false --show-branch-summary=false 2>/dev/null |
        awk '/^Filename/ || /\.rs / || /^TOTAL/ { print }'
}

LLVM_PROFILE_FILE="$profiles/simulation/%p.profraw" "$simulation" --seeds "$seeds" ||
    echo "sim-coverage: the simulation ended with status $?" >&2
"$tools/llvm-profdata" merge --sparse "$profiles"/simulation/*.profraw --output "$profiles/simulation.profdata"
echo
echo "the simulation alone:"
report "$profiles/simulation.profdata" "$simulation"

for test in "${tests[@]}"; do
    (cd crates/ha && LLVM_PROFILE_FILE="$profiles/tables/%p-%m.profraw" "$test" --quiet >/dev/null)
done
"$tools/llvm-profdata" merge --sparse "$profiles"/simulation/*.profraw "$profiles"/tables/*.profraw \
    --output "$profiles/both.profdata"
echo
echo "the simulation and the table tests:"
report "$profiles/both.profdata" "$simulation" "${tests[@]}"
echo
echo "lines that neither reached:"
"$tools/llvm-cov" show "$simulation" "${tests[@]/#/--object=}" --instr-profile "$profiles/both.profdata" \
    --sources "${sources[@]}" 2>/dev/null |
    awk -F '|' '/\.rs:$/ { file = $0; sub(/^.*crates\//, "crates/", file) }
                $1 ~ /^ *[0-9]+$/ && $2 ~ /^ *0$/ { sub(/^ */, "", $1); print file $1 ":" $3 }'
