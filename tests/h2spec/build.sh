#!/usr/bin/env bash
# Builds h2spec, the conformance test of HTTP/2, and prints the path of the program. The first time takes a minute and needs
# the network.
#
# The module is of a time before modules; go.mod and go.sum fix what it needs.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null 2>&1 || { echo "tests/h2spec/build.sh: Go is missing: 1.26 or newer is needed" >&2; exit 1; }
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0
go build -trimpath -ldflags '-s -w' -o .bin/h2spec github.com/summerwind/h2spec/cmd/h2spec
echo "$PWD/.bin/h2spec"
