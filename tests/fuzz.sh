#!/usr/bin/env bash
# Builds the fuzz targets and runs each for so many seconds: tests/fuzz.sh SECONDS [TARGET...]
#
# FUZZ_SEED makes a run that can be repeated; without it every run has another seed.
#
# Two run at a time. What is learned stays in target/fuzz/corpus and serves the next run; seeds are written anew. An input
# that breaks a property is left in target/fuzz/failed/TARGET: put it into tests/fuzz/found/TARGET, where
# tests/fuzz_inputs.rs reads it, and mend what it shows.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: tests/fuzz.sh SECONDS [TARGET...]}
shift
if [ $# = 0 ]; then set -- request response chunks path_authority http2_head matching yaml settings proxy_protocol; fi

# The profile of the gates, whose dependencies are there already; the wrapper adds to our own crates what fuzzing needs.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/rustc.sh CARGO_INCREMENTAL=0 \
  cargo build --quiet --locked --profile release-fast --package tidegate-fuzz --bins
work=$target/fuzz

# One target; its log ends with executions and coverage.
fuzz() {
  mkdir -p "$work/corpus/$1" "$work/failed/$1" "$work/seeds/$1"
  # Without instrumented libraries a leak cannot be told from what is kept; memory is bounded all the same.
  if ! TIDEGATE_FUZZ_SEEDS=$work/seeds/$1 "$target/release-fast/$1" "$work/corpus/$1" "$work/seeds/$1" -artifact_prefix="$work/failed/$1/" \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -detect_leaks=0 -print_final_stats=1 -seed="${FUZZ_SEED:-0}" \
    >"$work/$1.log" 2>&1; then
    grep -a -m1 -A8 -e panicked -e ERROR "$work/$1.log" | cut -c1-2000
    echo "fuzz: $1 failed; the whole log is $work/$1.log" >&2
    return 1
  fi
  echo "$1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.log") executions," \
    "$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/$1.log" | tail -1) edges"
}

failed=0
while [ $# -gt 0 ]; do
  fuzz "$1" & first=$!
  second=
  if [ $# -gt 1 ]; then fuzz "$2" & second=$!; shift; fi
  shift
  wait "$first" || failed=1
  if [ -n "$second" ]; then wait "$second" || failed=1; fi
done
exit $failed
