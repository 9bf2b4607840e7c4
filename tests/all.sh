#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, all tests, generated files up to date.
#
# Tests that need a program which is not installed say so and are skipped; with CI=true its absence is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step format
cargo fmt --check
step lints
cargo clippy --quiet --locked --all-targets -- -D warnings
step build
cargo build --quiet --locked --tests
step counts
cargo bench --quiet --locked --profile release-fast --bench gates -- --only counts
step fuzz
FUZZ_SEED=1 tests/fuzz.sh 10
step tests
# All of them: whoever mends one failure wants to know the others.
cargo test --locked --no-fail-fast
step image
tests/image.sh
if [ -x tests/cluster.sh ]; then
  step cluster
  tests/cluster.sh
fi
