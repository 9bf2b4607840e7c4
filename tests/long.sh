#!/usr/bin/env bash
# What takes minutes to hours and is run by hand, in parts: tests/long.sh [PART...]
#
# Without a part all of them run, one after the other. A part that fails or takes longer than it may does not stop those
# behind it. FUZZ_MINUTES says for how long each fuzz target runs (60). The numbers are in the output of each part, which is
# kept in target/long/PART.log, too. The parts beside fuzz measure: they want a machine that does nothing else.
set -uo pipefail
cd "$(dirname "$0")/.."
fuzz_minutes=${FUZZ_MINUTES:-60}
logs=$(realpath -m "${CARGO_TARGET_DIR:-target}")/long
mkdir -p "$logs"
wanted=("$@")
known=()
failed=()

# part NAME SECONDS TEST_ARGUMENT...: one part, which may take so long without what is built before it.
part() {
  local name=$1 seconds=$2
  shift 2
  known+=("$name")
  is_wanted "$name" || return 0
  # What is to be run is built first: a build is no part of the time.
  case $1 in
    tests/*) ;;
    *) cargo test --quiet --locked --profile release-fast --no-run "${@:1:2}" || { failed+=("$name"); return 0; } ;;
  esac
  printf '\n== %s, at most %s s\n' "$name" "$seconds"
  local begun=$SECONDS
  case $1 in
    tests/*) timeout "$seconds" "$@" ;;
    *) TIDEGATE_LONG=1 timeout "$seconds" cargo test --quiet --locked --profile release-fast "$@" --nocapture ;;
  esac 2>&1 | tee "$logs/$name.log"
  local result=${PIPESTATUS[0]}
  printf '== %s: %s after %s s\n' "$name" "$([ "$result" = 0 ] && echo passed || echo "failed with $result")" $((SECONDS - begun))
  [ "$result" = 0 ] || failed+=("$name")
}

is_wanted() {
  [ ${#wanted[@]} = 0 ] && return 0
  local name
  for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
  return 1
}

# 100,000 generated inputs for each property instead of 1,000.
part http1_properties 1800 --test http1_properties --
part fuzz_inputs 1800 --test fuzz_inputs --
export ROUTER_PROPERTY_SETS=20000
part router_property 1800 --test router_property --
# What 100,000 random histories of endpoints may never show.
part outlier 1800 --lib -- balance::outlier
# A minute of failures with 256 seeds for each number of workers and each interval.
part retry_budget 900 --lib -- balance::retry_budget
# 10,000 idle clients, 4,000 slow ones of each kind with the deadlines that are the defaults, 10,000 unfinished heads, ten
# times the load.
part slow_clients 900 --test overload -- slow_clients
part idle_clients 300 --test overload -- idle_clients
part unfinished_heads 300 --test overload -- unfinished_heads
part ten_times_the_load 300 --test overload -- ten_times
# 10,000 malformed answers, each with a plain exchange behind it on the same pool, over HTTP/1 and HTTP/2.
part answers 900 --test forward_upstream -- victims
# 50 connections whose streams nobody takes, streams beside a blocked one, and other clients beside attacks.
part http2 900 --test http2_cases -- whole --test-threads 1
# 1,000 panics among 100,000 requests, over each version of HTTP.
part panics 900 --lib -- test_panics
# Each fuzz target for so long, two at a time; the time for the build is added.
part fuzz $((fuzz_minutes * 60 * 4 + 1800)) tests/fuzz.sh $((fuzz_minutes * 60))

for name in "${wanted[@]}"; do
  case " ${known[*]} " in
    *" $name "*) ;;
    *) echo "long: there is no part $name; there are ${known[*]}" >&2; exit 2 ;;
  esac
done
[ ${#failed[@]} = 0 ] || { echo "long: failed: ${failed[*]}" >&2; exit 1; }
