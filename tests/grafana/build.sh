#!/usr/bin/env bash
# Builds the check of dashboards against Grafana's published types, and prints the path of the program. The first time takes
# a minute and needs the network.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null 2>&1 || { echo "tests/grafana/build.sh: Go is missing: 1.24 or newer is needed" >&2; exit 1; }
GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -trimpath -o .bin/grafana .
echo "$PWD/.bin/grafana"
