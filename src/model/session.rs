//! Session persistence of a rule as plain values.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How requests of a client find the endpoint of its first one again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// What carries the session's value.
    pub carrier: Carrier,
    /// The longest life of a session, in whole seconds; `None`: no limit.
    pub absolute_timeout: Option<Duration>,
    /// How long a session lasts without requests, in whole seconds; `None`: no limit.
    pub idle_timeout: Option<Duration>,
}

impl Session {
    /// Whether a session can end by itself: then its value says when it began.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.absolute_timeout.is_some() || self.idle_timeout.is_some()
    }
}

/// What carries a session's value, on requests and answers alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// A cookie (RFC 6265).
    Cookie(Cookie),
    /// A field of this name: the client sends back what it got.
    Header(HeaderName),
}

/// A session cookie and its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cookie {
    /// Its name, a token; case-sensitive.
    pub name: Arc<str>,
    /// The `Path` attribute; begins with `/`.
    pub path: Arc<str>,
    /// The `SameSite` attribute; `None`: left out.
    pub same_site: Option<SameSite>,
    /// The `Secure` attribute; `None`: as the client's request came.
    pub secure: Option<bool>,
    /// The `HttpOnly` attribute.
    pub http_only: bool,
    /// The client keeps the cookie as long as the session may last, not only until the browser is closed.
    pub is_permanent: bool,
}

/// The `SameSite` attribute of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// Only with requests from the site itself.
    Strict,
    /// Also when a link leads to the site.
    Lax,
    /// Always; needs `Secure`.
    None,
}

impl SameSite {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}
