#!/usr/bin/env bash
# What the Dockerfile makes, without a container engine: builds the static program by the same script and runs it as the
# image would run in a restricted pod: alone in a read-only root, as 65532, without capabilities.
#
# Needs root for its mount namespace; without it this says so and is skipped, and with CI=true that is a failure.
# IMAGE_BINARY=FILE tests a program that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "image: $*" >&2; exit 1; }
if [ "$(id -u)" != 0 ] || ! unshare --mount true 2>/dev/null; then
  echo "image test skipped: a mount namespace needs root"
  if [ "${CI:-}" = true ]; then exit 1; fi
  exit 0
fi

# The Dockerfile says what this test does.
for line in '.ci/static.sh /out/tidegate' 'FROM scratch' 'USER 65532:65532' 'ENTRYPOINT ["/tidegate"]' 'STOPSIGNAL SIGTERM'; do
  grep -qF "$line" Dockerfile || fail "the Dockerfile has no line with: $line"
done
[ "$(sed -n 's/^ARG VERSION=//p' Dockerfile)" = "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)" ] \
  || fail "the Dockerfile's VERSION is not that of Cargo.toml"

root=$(mktemp -d)
pid=
end() {
  if [ -n "$pid" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
  rm -rf "$root" "$root.out" "$root.err"
}
trap end EXIT
if [ -n "${IMAGE_BINARY:-}" ]; then
  cp "$IMAGE_BINARY" "$root/tidegate"
else
  PROFILE=dev .ci/static.sh "$root/tidegate"
fi
mkdir -p "$root/etc/tidegate/routes"
echo 'drain: {delay: 0s, timeout: 1s}' > "$root/etc/tidegate/settings.yaml"
chmod -R a+rX "$root"

# Runs the program as the pod does. Every step replaces the one before, so that the shell's child is the program itself.
restricted() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  exec unshare --mount sh -c '
    root=$1; shift
    mount --bind "$root" "$root"
    mount -o remount,bind,ro,nosuid,nodev "$root"
    # Only what the change of root and user takes is kept until then; a program of another user than root has none of it.
    exec setpriv --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid --no-new-privs \
      chroot --userspec=65532:65532 --groups= "$root" /tidegate "$@"' sh "$root" "$@"
}
serve=(standalone --config /etc/tidegate/routes --settings /etc/tidegate/settings.yaml --http 127.0.0.1:0 --admin 127.0.0.1:0)

# It writes nowhere: asked to, it says so and ends.
if (restricted "${serve[@]}" --access-log /access.log) >"$root.out" 2>"$root.err"; then
  fail "it wrote to a read-only root"
fi
grep -q 'access.log' "$root.err" || fail "it does not say what it could not write: $(cat "$root.err")"

(restricted "${serve[@]}") >"$root.out" 2>"$root.err" &
pid=$!
for _ in $(seq 300); do
  if [ -s "$root.out" ]; then break; fi
  kill -0 "$pid" 2>/dev/null || fail "it ended: $(cat "$root.err")"
  sleep 0.1
done
ready=$(head -1 "$root.out")
address() { printf '%s' "$ready" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
[ -n "$(address admin)" ] && [ -n "$(address http)" ] || fail "no addresses in: $ready"

status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
[ "$(status Uid | cut -f1)" = 65532 ] || fail "it runs as $(status Uid)"
[ "$(status Gid | cut -f1)" = 65532 ] || fail "it runs in the group $(status Gid)"
for set in CapInh CapPrm CapEff CapAmb; do
  [ "$(status $set)" = 0000000000000000 ] || fail "$set is $(status $set)"
done
[ "$(status NoNewPrivs)" = 1 ] || fail "it may gain privileges"

code() { curl --silent --output /dev/null --max-time 10 --write-out '%{http_code}' "$@"; }
[ "$(code "http://$(address admin)/livez")" = 200 ] || fail "not alive"
[ "$(code "http://$(address admin)/readyz")" = 200 ] || fail "not ready"
[ "$(code "http://$(address admin)/metrics")" = 200 ] || fail "no metrics"
[ "$(code "http://$(address http)/")" = 404 ] || fail "it does not serve"

kill -TERM "$pid"
rc=0
wait "$pid" || rc=$?
pid=
[ "$rc" = 0 ] || fail "it ended with $rc after SIGTERM: $(cat "$root.err")"
echo "image: $(stat -c %s "$root/tidegate") bytes, static, runs as 65532 in a read-only root without capabilities"
