//! Keeps web pages away from `/debug/…` (DNS rebinding and cross-site requests).
//!
//! Somebody who runs a port-forward has the admin port on 127.0.0.1, where every page in their browser can reach it. A
//! page cannot choose the Host that its own name stands in, so only names that no stranger can own are answered.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Request, StatusCode};

use crate::model::host::{Authority, normalize_name, parse_authority};

/// Why a request is refused, as status and body.
pub(super) type Refusal = (StatusCode, &'static str);

const HOST_REFUSED: Refusal = (
    StatusCode::MISDIRECTED_REQUEST,
    "debug answers hosts that are an IP address, localhost, a name under it or listed in debugHosts\n",
);
const ORIGIN_REFUSED: Refusal = (StatusCode::FORBIDDEN, "debug changes nothing for pages of other sites\n");

/// Checks Host, and for a method that may change something Origin and Sec-Fetch-Site; `listed` are further hosts.
///
/// # Errors
/// 421 for another host, 403 for a request that a page of another site made.
pub(super) fn check<B>(request: &Request<B>, listed: &[String]) -> Result<(), Refusal> {
    let host = host(request).filter(|host| is_admitted(*host, listed)).ok_or(HOST_REFUSED)?;
    if matches!(*request.method(), Method::GET | Method::HEAD) || is_same_origin(request.headers(), host) {
        return Ok(());
    }
    Err(ORIGIN_REFUSED)
}

/// The one host that a request names, in its target and in Host.
fn host<B>(request: &Request<B>) -> Option<Authority<'_>> {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next().map(|line| parse_authority(line.as_bytes()));
    let target = request.uri().authority().map(|authority| parse_authority(authority.as_str().as_bytes()));
    match (target, line, lines.next()) {
        (Some(target), Some(line), None) => target.ok().filter(|target| line == Ok(*target)),
        (None, Some(host), None) | (Some(host), None, None) => host.ok(),
        (_, _, Some(_)) | (None, None, None) => None,
    }
}

fn is_admitted(host: Authority<'_>, listed: &[String]) -> bool {
    let name = normalize_name(host.host);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || listed.iter().any(|other| normalize_name(other) == name)
}

/// Whether no page of another site made the request, as far as browsers say.
fn is_same_origin(headers: &HeaderMap, host: Authority<'_>) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let own_site = sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let mut origins = headers.get_all(ORIGIN).iter();
    let own_origin = origins.all(|origin| {
        let authority = origin.as_bytes().strip_prefix(b"http://").and_then(|rest| parse_authority(rest).ok());
        authority.is_some_and(|own| {
            own.host.eq_ignore_ascii_case(host.host) && own.port.unwrap_or(80) == host.port.unwrap_or(80)
        })
    });
    own_site && own_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    fn status(request: &Request<()>) -> u16 {
        check(request, &["Admin.example.".to_owned()]).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_hosts_that_no_stranger_can_own_are_answered() {
        for (host, expected) in [
            ("127.0.0.1:9090", 200),
            ("192.0.2.7", 200),
            ("[::1]:9090", 200),
            ("[2001:db8::7]", 200),
            ("localhost:9090", 200),
            ("LocalHost.", 200),
            ("tidegate.localhost:1", 200),
            ("admin.EXAMPLE:9090", 200),
            ("evil.test", 421),
            ("evil.test:9090", 421),
            ("127.0.0.1.evil.test", 421),
            ("localhost.evil.test", 421),
            ("notlocalhost", 421),
            ("admin.example.evil.test", 421),
            ("0x7f.1", 421),
            ("2130706433", 421),
            ("127.0.0.1@evil.test", 421),
            ("", 421),
        ] {
            for method in ["GET", "DELETE"] {
                assert_eq!(status(&request(method, "/debug/routes", &[("host", host)])), expected, "{method} {host}");
            }
        }
    }

    #[test]
    fn a_request_names_one_host() {
        for (target, lines, expected) in [
            ("/debug/routes", &[][..], 421),
            ("/debug/routes", &[("host", "localhost"), ("host", "localhost")], 421),
            ("http://localhost/debug/routes", &[("host", "localhost")], 200),
            ("http://localhost/debug/routes", &[], 200),
            ("http://evil.test/debug/routes", &[("host", "localhost")], 421),
            ("http://localhost/debug/routes", &[("host", "evil.test")], 421),
            ("http://localhost/debug/routes", &[("host", "localhost"), ("host", "evil.test")], 421),
        ] {
            assert_eq!(status(&request("GET", target, lines)), expected, "{target} {lines:?}");
        }
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let host = ("host", "localhost:9090");
        for (line, expected) in [
            (("accept", "*/*"), 200),
            (("origin", "http://localhost:9090"), 200),
            (("origin", "http://LOCALHOST:9090"), 200),
            (("origin", "http://localhost:8080"), 403),
            (("origin", "http://localhost"), 403),
            (("origin", "https://localhost:9090"), 403),
            (("origin", "https://evil.test"), 403),
            (("origin", "null"), 403),
            (("sec-fetch-site", "same-origin"), 200),
            (("sec-fetch-site", "none"), 200),
            (("sec-fetch-site", "same-site"), 403),
            (("sec-fetch-site", "cross-site"), 403),
        ] {
            assert_eq!(status(&request("DELETE", "/debug/sockets/1", &[host, line])), expected, "{line:?}");
            assert_eq!(status(&request("GET", "/debug/sockets", &[host, line])), 200, "reading {line:?}");
        }
        let mixed = [host, ("origin", "http://localhost:9090"), ("origin", "http://evil.test")];
        assert_eq!(status(&request("DELETE", "/debug/sockets/1", &mixed)), 403);
        let default_port = [("host", "localhost"), ("origin", "http://localhost:80")];
        assert_eq!(status(&request("DELETE", "/debug/sockets/1", &default_port)), 200);
    }
}
