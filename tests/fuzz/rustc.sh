#!/bin/sh
# Compiles a crate of the workspace for libFuzzer, as cargo's RUSTC_WORKSPACE_WRAPPER: counters of edges and comparisons that
# guide it, and the checks of a debug build. Dependencies stay as they are, so that they need not be built again.
rustc=$1
shift
exec "$rustc" "$@" --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
