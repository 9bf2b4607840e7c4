#!/usr/bin/env bash
# Builds controlplane, helm or the Go tests and prints the path of the program: build.sh [controlplane|helm|e2e]
#
# Results are kept per user, so that a second clone is warm too, in ${XDG_CACHE_HOME:-~/.cache}/tidegate/controlplane,
# one folder per key of sources, go.sum, Go version and this script; .bin holds links to the current ones. Always build
# by this script: its flags are part of every key of Go's own cache. Cold on 2 cores: 7 to 12 minutes, helm 2 more.
set -euo pipefail
cd "$(dirname "$0")"

kubernetes=1.36.3
helm=4.2.3
target=${1:-controlplane}

die() { echo "tests/controlplane/build.sh: $*" >&2; exit 1; }
command -v go >/dev/null 2>&1 || die "Go is missing: 1.26 or newer is needed"
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=readonly
version=$(go env GOVERSION)
case $version in
  go1.2[6-9]* | go1.[3-9][0-9]* | go[2-9].*) ;;
  *) die "Go is too old: $version is installed, 1.26 or newer is needed" ;;
esac

case $target in
  controlplane) sources=$(find . -name '*.go' ! -name '*_test.go' ! -path './e2e/*' ! -path './.*/*' | LC_ALL=C sort) ;;
  helm) sources= ;;
  e2e) sources=$(find e2e -name '*.go' | LC_ALL=C sort) ;;
  *) die "unknown target $target: controlplane, helm or e2e is expected" ;;
esac
# shellcheck disable=SC2086 # names of our own files have no spaces
key=$({ echo "$target $version $(go env GOOS GOARCH) $kubernetes $helm"; sha256sum build.sh go.mod go.sum $sources; } | sha256sum | cut -c1-20)

cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/tidegate/controlplane
mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || { cache=$PWD/.cache; mkdir -p "$cache"; }
built=$cache/$target-$key/$target

link() {
  mkdir -p .bin
  ln -sfn "$built" ".bin/$target"
  if [ "$target" = controlplane ]; then ln -sfn "$built" .bin/kubectl; fi
  touch "$cache/$target-$key" 2>/dev/null || true
  echo "$PWD/.bin/$target"
}
if [ -x "$built" ]; then link; exit; fi

exec 9>"$cache/$target.lock"
flock 9 # another clone may be building the same
if [ -x "$built" ]; then link; exit; fi

began=$SECONDS
echo "building $target (kept in $cache; the first time takes minutes)" >&2
work=$(mktemp -d "$cache/building-XXXXXX")
trap 'rm -rf "$work"' EXIT
minor=${kubernetes#*.}
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=" -X $package.gitVersion=v$kubernetes -X $package.gitMajor=${kubernetes%%.*} -X $package.gitMinor=${minor%%.*}"
  flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=v$kubernetes -X $package.buildDate=1970-01-01T00:00:00Z"
done
case $target in
  controlplane) nice go build -trimpath -ldflags "$flags" -o "$work/$target" . ;;
  helm)
    flags="-s -w -X helm.sh/helm/v4/internal/version.version=v$helm -X helm.sh/helm/v4/internal/version.gitTreeState=clean"
    (cd / && GOFLAGS='' GOBIN=$work nice go install -trimpath -ldflags "$flags" "helm.sh/helm/v4/cmd/helm@v$helm") ;;
  e2e) nice go test -trimpath -ldflags "-s -w" -c -o "$work/$target" ./e2e ;;
esac
mkdir -p "$cache/$target-$key"
mv "$work/$target" "$built"
# The youngest of each kind stay: several clones of different states may share the cache.
# shellcheck disable=SC2012 # these names have no blanks
ls -dt "$cache/$target-"* | tail -n +5 | xargs -r rm -rf
find "$cache" -maxdepth 1 -name 'building-*' -mmin +120 -exec rm -rf {} +
echo "built $target in $((SECONDS - began)) s" >&2
link
