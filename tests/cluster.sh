#!/usr/bin/env bash
# Tests against a real Kubernetes API server: the control plane's own tests (Go), then tidegate's (tests/cluster*.rs, tests/charts).
#
# Builds and caches what it needs (tests/controlplane/build.sh): cold 10 to 15 minutes on 2 cores; the tests take 12.
# Without Go it says so and is skipped; with CI=true that is a failure. With USE_EXISTING_CLUSTER=true only the Rust
# tests run, against the cluster of the current kubeconfig. CLUSTER_BENCH=off leaves the benchmark out.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${USE_EXISTING_CLUSTER:-}" = true ]; then
  exec cargo test --locked --test cluster -- --nocapture
fi
if ! command -v go >/dev/null 2>&1; then
  echo "cluster suite skipped: Go is missing (1.26 or newer builds the control plane)"
  if [ "${CI:-}" = true ]; then exit 1; fi
  exit 0
fi

unformatted=$(gofmt -l tests/controlplane tests/grafana)
if [ -n "$unformatted" ]; then
  echo "gofmt would change: $unformatted"
  exit 1
fi
controlplane=$(tests/controlplane/build.sh controlplane)
helm=$(tests/controlplane/build.sh helm)
grafana=$(tests/grafana/build.sh)
e2e=$(tests/controlplane/build.sh e2e)
cargo test --locked --test cluster --test cluster_status --test charts --no-run
cargo bench --quiet --locked --profile dev --bench sidecars --no-run
# What tests use of Python is fetched before, since there is no network inside.
cargo test --quiet --locked --test charts -- packages_of_python
export TIDEGATE_CONTROLPLANE=$controlplane TIDEGATE_HELM=$helm TIDEGATE_GRAFANA=$grafana

# Pods have addresses that exist only inside such a namespace, and there is no other network in it.
inside() { "$controlplane" netns -- "$@"; }
inside true

began=$SECONDS
(cd tests/controlplane && CGO_ENABLED=0 GOTOOLCHAIN=local nice go test -trimpath ./internal/addr ./internal/images)
inside "$e2e" -test.parallel=3 -test.timeout=20m ${CLUSTER_VERBOSE:+-test.v}
echo "control plane: $((SECONDS - began)) s"
if [ "${CLUSTER_BENCH:-}" != off ]; then
  # The promises are for an idle machine; only what is far off fails here.
  "$controlplane" bench --rounds=30 --check=100
fi
began=$SECONDS
# Only what does not depend on speed counts here: threads, memory, and that each sidecar is told of everything over one
# connection.
inside cargo bench --quiet --locked --offline --profile dev --bench sidecars -- --smoke --count 10 --writes 5 --quiet 5
echo "sidecars beside an API server: $((SECONDS - began)) s"
began=$SECONDS
inside cargo test --locked --offline --test cluster --test cluster_status --test charts -- --nocapture
echo "tidegate in a cluster: $((SECONDS - began)) s"
