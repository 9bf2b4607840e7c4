#!/usr/bin/env bash
# What takes hours and is run by hand: the long forms of the tests, then each fuzz target for so long: tests/long.sh [MINUTES]
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-60}

step() { printf '\n== %s\n' "$*"; }

# 100,000 generated inputs for each property instead of 1,000.
step properties
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --test http1_properties --test fuzz_inputs -- --nocapture
ROUTER_PROPERTY_SETS=20000 cargo test --locked --profile release-fast --test router_property -- --nocapture
# What 100,000 random histories of endpoints may never show.
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --lib -- balance::outlier --nocapture
# 10,000 idle clients and 4,000 slow ones of each kind, with the deadlines that are the defaults.
step overload
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --test overload -- --nocapture
# 10,000 malformed answers, each with a plain exchange behind it on the same pool, over HTTP/1 and HTTP/2.
step answers
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --test forward_upstream -- victims --nocapture
# 50 connections whose streams nobody takes, and streams beside a blocked one.
step http2
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --test http2_cases whole -- --nocapture --test-threads 1
# 1,000 panics among 100,000 requests, over each version of HTTP.
step panics
TIDEGATE_LONG=1 cargo test --locked --profile release-fast --lib test_panics -- --nocapture
step fuzz
tests/fuzz.sh $((minutes * 60))
