//! The cases over TLS: the same runners, on connections that have agreed on `h2` in their handshake.

use super::attacks;
use super::client::{Client, over_tls};
use super::*;

#[test]
fn heads_are_checked_over_tls() {
    over_tls(heads_are_checked);
}

#[test]
fn lengths_and_trailers_are_checked_over_tls() {
    over_tls(lengths_and_trailers_are_checked);
}

#[test]
fn frames_that_break_the_rules_end_the_connection_over_tls() {
    over_tls(frames_that_break_the_rules_end_the_connection);
}

#[test]
fn streams_above_the_limit_are_refused_over_tls() {
    over_tls(streams_above_the_limit_are_refused_and_the_others_go_on);
}

#[test]
fn streams_in_flight_outlive_the_goaway_of_either_side_over_tls() {
    over_tls(streams_in_flight_outlive_the_goaway_of_either_side);
}

#[test]
fn a_stream_that_is_not_taken_goes_over_tls() {
    over_tls(a_stream_that_is_not_taken_goes_and_then_its_connection);
}

#[test]
fn attacks_end_over_tls() {
    over_tls(|| {
        attacks::a_flood_is_told_to_calm_down();
        attacks::rapid_resets_end_and_others_are_served();
        attacks::errors_that_provoke_resets_end();
    });
}

/// RFC 9113 §3.4: what was agreed begins with its preface, and nothing else is looked for.
#[test]
fn http1_where_http2_was_agreed_is_closed() {
    over_tls(|| {
        let bed = Bed::start();
        bed.backend.begin();
        let mut client = Client::connect_raw(bed.gateway.address());
        client.send(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
        client.until(|_| false);
        assert!(client.closed && client.frames.is_empty());
        drop(client);
        assert!(bed.requests().is_empty());
        assert_eq!(bed.closed("frame"), 1);
    });
}
