#!/usr/bin/env bash
# Builds one static tidegate for the image and puts it where the argument says: .ci/static.sh OUTPUT
#
# The Dockerfile and tests/image.sh run the same steps. The target is the machine's own, so an image for arm64 is built on
# arm64 (or under emulation, as `docker buildx build --platform` does). PROFILE=dev builds quickly, for tests.
set -euo pipefail
output=$(realpath -m "${1:?usage: .ci/static.sh OUTPUT}")
cd "$(dirname "$0")/.."

target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
case $target in
  x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
  *) echo ".ci/static.sh: found the target $target, expected x86_64- or aarch64-unknown-linux-gnu" >&2; exit 1 ;;
esac
profile=${PROFILE:-release}
folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi

# With --target the flags are those of the program, not those of build scripts.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
  cargo build --locked --profile "$profile" --target "$target" --bin tidegate
built=${CARGO_TARGET_DIR:-target}/$target/$folder/tidegate

# A program that asks for a loader cannot start in an empty image. Names of program headers are in the first kilobytes.
if grep -aq -m1 'ld-linux' <(head -c 4096 "$built"); then
  echo ".ci/static.sh: $built is not static: it asks for a loader" >&2
  exit 1
fi
install -D -m 0755 "$built" "$output"
