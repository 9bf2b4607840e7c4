//! Session persistence of a rule.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use xxhash_rust::xxh3::xxh3_64;

use super::matches::Predicate;
use super::reader::Reader;
use super::report::{FieldPath, Report};
use crate::api::gateway_route::{DurationText, RouteRule};
use crate::api::policy::{
    CookieConfig, CookieLifetime, SameSite as ApiSameSite, SessionPersistence as Block, SessionType,
};
use crate::fields::{self, FieldFlags};
use crate::model::ids::ObjectName;
use crate::model::matching::PathMatch;
use crate::model::session::{Carrier, Cookie, SameSite, Session};

/// Compiles the block of the rule at a position of a route; `Ok(None)` where it has none, `Err` after a report that drops
/// the rule.
pub(super) fn compile(
    (route, index, rule): (&ObjectName, usize, &RouteRule),
    predicates: &[Predicate],
    report: &mut Report<'_>,
) -> Result<Option<Session>, ()> {
    let Some(block) = rule.session_persistence.as_deref() else { return Ok(None) };
    let at = FieldPath::rule(index);
    let at = at.field("sessionPersistence");
    let mut reader = Reader { rule: Some(index), report, is_broken: false };
    if rule.delegate.is_some() {
        reader.refuse(
            at,
            "sessionPersistence beside delegate",
            "none: the rules that send requests to pods have their own",
        );
    }
    let name = block.session_name.clone().unwrap_or_else(|| default_name(route, index, rule));
    let (absolute_timeout, idle_timeout) = reader.timeouts(block, at);
    let carrier = match reader.known(at.field("type"), &block.r#type) {
        Some(SessionType::Cookie) => {
            let config = block.cookie_config.as_ref();
            let cookie = reader.cookie(&name, (config, at.field("cookieConfig")), at, predicates);
            if cookie.as_ref().is_some_and(|cookie| cookie.is_permanent) && block.absolute_timeout.is_none() {
                reader.refuse(at, "a permanent cookie without an end", "absoluteTimeout beside it");
            }
            cookie.map(Carrier::Cookie)
        }
        Some(SessionType::Header) => {
            if block.cookie_config.is_some() {
                reader.refuse(at.field("cookieConfig"), "attributes of a cookie", "none beside type Header");
            }
            reader.header(&name, at).map(Carrier::Header)
        }
        None => None,
    };
    match carrier {
        Some(carrier) if !reader.is_broken => Ok(Some(Session { carrier, absolute_timeout, idle_timeout })),
        Some(_) | None => Err(()),
    }
}

/// The name where the rule does not say one: two rules of one host must not take each other's sessions.
fn default_name(route: &ObjectName, index: usize, rule: &RouteRule) -> String {
    let rule = rule.name.as_deref().map_or_else(|| index.to_string(), str::to_owned);
    // The upper half, of which every bit depends on the whole text.
    format!("tg-{:08x}", xxh3_64(format!("{route}/{rule}").as_bytes()) >> 32)
}

impl Reader<'_, '_> {
    fn timeouts(&mut self, block: &Block, at: FieldPath<'_>) -> (Option<Duration>, Option<Duration>) {
        let mut timeout = |text: &Option<DurationText>, name| {
            let text = text.as_ref()?;
            let whole = text.as_duration().filter(|duration| duration.subsec_nanos() == 0 && !duration.is_zero());
            if whole.is_none() {
                self.refuse(at.field(name), &text.0, "whole seconds such as 30m or 12h; leave it out for no limit");
            }
            whole
        };
        let absolute = timeout(&block.absolute_timeout, "absoluteTimeout");
        let idle = timeout(&block.idle_timeout, "idleTimeout");
        if let (Some(absolute), Some(idle), Some(text)) = (absolute, idle, &block.idle_timeout)
            && idle > absolute
        {
            self.refuse(
                at.field("idleTimeout"),
                &text.0,
                "no more than absoluteTimeout, which ends the session before",
            );
        }
        (absolute, idle)
    }

    fn cookie(
        &mut self,
        name: &str,
        (config, at_config): (Option<&CookieConfig>, FieldPath<'_>),
        at: FieldPath<'_>,
        predicates: &[Predicate],
    ) -> Option<Cookie> {
        if name.is_empty() || !name.bytes().all(is_token) {
            self.refuse(at.field("sessionName"), format!("{name:?}"), "a token of letters, digits and !#$%&'*+-.^_`|~");
        }
        let is_permanent = config.and_then(|config| self.known(at_config.field("lifetimeType"), &config.lifetime_type));
        let same_site = config.and_then(|config| config.same_site.as_ref());
        let same_site = same_site.and_then(|same_site| self.known(at_config.field("sameSite"), same_site));
        let same_site = same_site.map(|same_site| match same_site {
            ApiSameSite::Strict => SameSite::Strict,
            ApiSameSite::Lax => SameSite::Lax,
            ApiSameSite::None => SameSite::None,
        });
        let stated_secure = config.and_then(|config| config.secure);
        if (same_site, stated_secure) == (Some(SameSite::None), Some(false)) {
            self.refuse(
                at_config.field("secure"),
                "false",
                "true, or none, beside sameSite None: browsers drop the cookie",
            );
        }
        let secure = if same_site == Some(SameSite::None) { Some(true) } else { stated_secure };
        let stated_path = config.and_then(|config| config.path.as_deref());
        if let Some(path) = stated_path.filter(|path| !is_path(path)) {
            self.refuse(at_config.field("path"), format!("{path:?}"), "a path that begins with / and has no semicolon");
        }
        // Browsers drop a cookie whose name promises what its attributes do not keep (RFC 6265bis §4.1.3).
        let (is_host, is_secure) = (name.starts_with("__Host-"), name.starts_with("__Secure-"));
        if (is_host || is_secure) && secure != Some(true) {
            self.refuse(
                at.field("sessionName"),
                name,
                "cookieConfig.secure: true beside it, which such a name asks for",
            );
        }
        if is_host && stated_path.is_some_and(|path| path != "/") {
            self.refuse(at_config.field("path"), stated_path.unwrap_or_default(), "/, which such a name asks for");
        }
        let shared = if is_host { None } else { shared_prefix(predicates) };
        Some(Cookie {
            name: name.into(),
            path: stated_path.or(shared).map_or_else(|| "/".into(), Arc::from),
            same_site,
            secure,
            http_only: config.is_none_or(|config| config.http_only),
            is_permanent: is_permanent == Some(CookieLifetime::Permanent),
        })
    }

    fn header(&mut self, name: &str, at: FieldPath<'_>) -> Option<HeaderName> {
        const SPECIAL: FieldFlags = FieldFlags::NO_REQUEST_FILTER
            .and(FieldFlags::NO_RESPONSE_FILTER)
            .and(FieldFlags::NOT_FROM_CLIENTS)
            .and(FieldFlags::NOT_A_TRAILER);
        let parsed = HeaderName::try_from(name).ok();
        // Fields that mean something already cannot mean a session.
        let parsed = parsed.filter(|name| !fields::flags(name.as_str()).has_any(SPECIAL));
        if parsed.is_none() {
            self.refuse(at.field("sessionName"), format!("{name:?}"), "the name of a header without another meaning");
        }
        parsed
    }
}

/// The prefix that all matches of a rule share, as a browser compares it; `None` for other paths.
fn shared_prefix(predicates: &[Predicate]) -> Option<&str> {
    let mut prefixes = predicates.iter().map(|predicate| match &predicate.path {
        PathMatch::Prefix(prefix) => Some(&**prefix),
        PathMatch::Exact(_) | PathMatch::Template(_) | PathMatch::Regex(_) => None,
    });
    let first = prefixes.next()??;
    prefixes.all(|prefix| prefix == Some(first)).then_some(first).filter(|prefix| is_path(prefix))
}

/// Whether a text can be the `Path` of a cookie (RFC 6265 §4.1.1, §5.2.4).
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';')
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
