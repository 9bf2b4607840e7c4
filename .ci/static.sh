#!/usr/bin/env bash
# Builds one static tidegate for the image and puts it where the argument says: .ci/static.sh OUTPUT
#
# The Dockerfile and tests/image.sh run the same steps. The target is the machine's own, so an image for arm64 is built on
# arm64 (or under emulation, as `docker buildx build --platform` does).
#
#   PROFILE=dev   builds quickly, for tests
#   PGO=1         builds twice: first a program that counts what it does under the load of `cargo bench --bench proxy`, then
#                 one that is laid out by that. It takes two cores, wrk, h2load and the llvm-profdata of rustc's LLVM.
set -euo pipefail
output=$(realpath -m "${1:?usage: .ci/static.sh OUTPUT}")
cd "$(dirname "$0")/.."

fail() { echo ".ci/static.sh: $*" >&2; exit 1; }
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
case $target in
  x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
  *) fail "found the target $target, expected x86_64- or aarch64-unknown-linux-gnu" ;;
esac
profile=${PROFILE:-release}
folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi
targets=${CARGO_TARGET_DIR:-target}

# With --target the flags are those of the program, not those of build scripts.
build() {
  RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static $1" \
    cargo build --locked --profile "$profile" --target "$target" --target-dir "$2" --bin tidegate
  built=$2/$target/$folder/tidegate
}

if [ -n "${PGO:-}" ]; then
  llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  profdata=$(command -v "$(rustc --print target-libdir)/../bin/llvm-profdata" "llvm-profdata-$llvm" | head -1) \
    || fail "PGO=1 needs llvm-profdata of LLVM $llvm (Debian package llvm-$llvm, or rustup component llvm-tools)"
  for tool in wrk h2load; do
    command -v "$tool" >/dev/null || fail "PGO=1 needs $tool (Debian packages wrk and nghttp2-client)"
  done
  counts=$(realpath -m "$targets/pgo/counts")
  rm -rf "$counts"
  build "-C profile-generate=$counts" "$targets/pgo"
  RUSTFLAGS='' cargo bench --locked --profile dev --bench proxy -- \
    --subject "$(realpath "$built")" --alone --scenario all --rounds 1 --seconds 2
  "$profdata" merge -o "$counts/merged.profdata" "$counts"
  build "-C profile-use=$counts/merged.profdata" "$targets"
else
  build "" "$targets"
fi

# A program that asks for a loader cannot start in an empty image. Names of program headers are in the first kilobytes.
if grep -aq -m1 'ld-linux' <(head -c 4096 "$built"); then
  fail "$built is not static: it asks for a loader"
fi
install -D -m 0755 "$built" "$output"
