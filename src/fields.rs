//! Header fields that mean something to a gateway, and what: one table of names with flags.
//!
//! Every list of special fields is a column of this table, so that requests, responses, trailers, both HTTP versions and
//! the filters of routes agree about a name.

/// What is special about a field; a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldFlags(u16);

impl FieldFlags {
    /// Nothing is special.
    pub const NONE: Self = Self(0);
    /// It belongs to one connection and is not sent on, in either direction (RFC 9110 §7.6.1).
    pub const HOP_BY_HOP: Self = Self(1);
    /// It says where a body ends (RFC 9112 §6). The gateway writes it anew.
    pub const FRAMING: Self = Self(1 << 1);
    /// A message with it is malformed over HTTP/2 (RFC 9113 §8.2.2).
    pub const NOT_IN_HTTP2: Self = Self(1 << 2);
    /// `Connection` may not name it: without it a request would have another target, end or sender.
    pub const NOT_IN_CONNECTION: Self = Self(1 << 3);
    /// The client's value does not reach endpoints: the gateway writes its own, or none.
    pub const NOT_FROM_CLIENTS: Self = Self(1 << 4);
    /// It tells who sent a request. The gateway alone decides about it; `Connection` cannot take it away.
    pub const IDENTITY: Self = Self(1 << 5);
    /// Filters of a route may not write it into requests: their value would not arrive, or would break the request.
    pub const NO_REQUEST_FILTER: Self = Self(1 << 6);
    /// Filters of a route may not write it into responses.
    pub const NO_RESPONSE_FILTER: Self = Self(1 << 7);
    /// It is removed from trailers: there it could change framing, routing, credentials or identity after the fact
    /// (RFC 9110 §6.5.1).
    pub const NOT_A_TRAILER: Self = Self(1 << 8);
    /// A sidecar sends the client's value on, although a gateway does not: it says nothing about the connection.
    pub const PASSES_SIDECARS: Self = Self(1 << 9);

    /// The flags of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has at least one of the flags of `other`.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Fields of one connection: no filter may write them, no trailer may have them.
const HOP: FieldFlags = FieldFlags::HOP_BY_HOP
    .and(FieldFlags::NOT_FROM_CLIENTS)
    .and(FieldFlags::NO_REQUEST_FILTER)
    .and(FieldFlags::NO_RESPONSE_FILTER)
    .and(FieldFlags::NOT_A_TRAILER);
/// Fields of requests that the gateway writes itself, or keeps from endpoints.
const OWN: FieldFlags = FieldFlags::NOT_FROM_CLIENTS.and(FieldFlags::NO_REQUEST_FILTER).and(FieldFlags::NOT_A_TRAILER);
/// Fields that say where a request comes from, or who sends it.
const ORIGIN: FieldFlags = OWN.and(FieldFlags::PASSES_SIDECARS);
/// Fields of identity that are taken from trusted forwarders.
const FORWARDED: FieldFlags = FieldFlags::IDENTITY.and(FieldFlags::NO_REQUEST_FILTER).and(FieldFlags::NOT_A_TRAILER);
const TRAILER_ONLY: FieldFlags = FieldFlags::NOT_A_TRAILER;
const UNNAMED: FieldFlags = FieldFlags::NOT_IN_CONNECTION;

/// Makes the lookup from the table: the compiler turns the match into a comparison by length first.
macro_rules! fields {
    ($($name:literal => $flags:expr,)+) => {
        /// The flags of a field name in lower case.
        #[must_use]
        pub fn flags(name: &str) -> FieldFlags {
            match name {
                $($name => const { $flags },)+
                _ => FieldFlags::NONE,
            }
        }

        /// Every name of the table.
        const NAMES: &[&str] = &[$($name,)+];
    };
}

fields! {
    "connection" => HOP.and(FieldFlags::NOT_IN_HTTP2),
    "http2-settings" => HOP,
    "keep-alive" => HOP.and(FieldFlags::NOT_IN_HTTP2),
    "proxy-connection" => HOP.and(FieldFlags::NOT_IN_HTTP2),
    "te" => HOP,
    "trailer" => HOP,
    "transfer-encoding" => HOP.and(FieldFlags::FRAMING).and(FieldFlags::NOT_IN_HTTP2).and(UNNAMED),
    "upgrade" => HOP.and(FieldFlags::NOT_IN_HTTP2),
    "content-length" => OWN.and(FieldFlags::FRAMING).and(FieldFlags::NO_RESPONSE_FILTER).and(UNNAMED),
    "host" => OWN.and(UNNAMED),
    "expect" => OWN,
    "forwarded" => ORIGIN,
    "proxy" => ORIGIN,
    "proxy-authorization" => ORIGIN,
    "x-real-ip" => ORIGIN,
    "x-forwarded-for" => ORIGIN.and(FieldFlags::IDENTITY),
    "x-forwarded-client-cert" => ORIGIN.and(FieldFlags::IDENTITY),
    "x-request-id" => ORIGIN.and(FieldFlags::IDENTITY),
    "x-forwarded-host" => FORWARDED,
    "x-forwarded-port" => FORWARDED,
    "x-forwarded-proto" => FORWARDED,
    "x-tidegate-attempt" => FORWARDED,
    "x-tidegate-mirror" => FORWARDED,
    "via" => FieldFlags::NO_REQUEST_FILTER.and(FieldFlags::NOT_A_TRAILER),
    "sec-websocket-key" => FieldFlags::NO_REQUEST_FILTER,
    "sec-websocket-accept" => FieldFlags::NO_RESPONSE_FILTER,
    "authorization" => TRAILER_ONLY.and(UNNAMED),
    "cookie" => TRAILER_ONLY.and(UNNAMED),
    "age" => TRAILER_ONLY,
    "cache-control" => TRAILER_ONLY,
    "content-encoding" => TRAILER_ONLY,
    "content-range" => TRAILER_ONLY,
    "content-type" => TRAILER_ONLY,
    "date" => TRAILER_ONLY,
    "expires" => TRAILER_ONLY,
    "location" => TRAILER_ONLY,
    "max-forwards" => TRAILER_ONLY,
    "proxy-authenticate" => TRAILER_ONLY,
    "range" => TRAILER_ONLY,
    "retry-after" => TRAILER_ONLY,
    "set-cookie" => TRAILER_ONLY,
    "vary" => TRAILER_ONLY,
    "www-authenticate" => TRAILER_ONLY,
}

/// Length of the longest name of the table.
const LONGEST: usize = {
    let mut longest = 0;
    let mut index = 0;
    while index < NAMES.len() {
        if NAMES[index].len() > longest {
            longest = NAMES[index].len();
        }
        index += 1;
    }
    longest
};

/// As [`flags`], for a name as it stands in a message, in upper or lower case.
#[must_use]
pub fn flags_as_written(name: &[u8]) -> FieldFlags {
    let mut lower = [0; LONGEST];
    let Some(lower) = lower.get_mut(..name.len()) else { return FieldFlags::NONE };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).map_or(FieldFlags::NONE, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters of the flags, in the order of their declaration.
    const LETTERS: [(char, FieldFlags); 10] = [
        ('h', FieldFlags::HOP_BY_HOP),
        ('l', FieldFlags::FRAMING),
        ('2', FieldFlags::NOT_IN_HTTP2),
        ('c', FieldFlags::NOT_IN_CONNECTION),
        ('n', FieldFlags::NOT_FROM_CLIENTS),
        ('i', FieldFlags::IDENTITY),
        ('q', FieldFlags::NO_REQUEST_FILTER),
        ('r', FieldFlags::NO_RESPONSE_FILTER),
        ('t', FieldFlags::NOT_A_TRAILER),
        ('s', FieldFlags::PASSES_SIDECARS),
    ];

    #[test]
    fn each_name_has_its_flags() {
        let table = [
            ("age", "t"),
            ("authorization", "ct"),
            ("cache-control", "t"),
            ("connection", "h2nqrt"),
            ("content-encoding", "t"),
            ("content-length", "lcnqrt"),
            ("content-range", "t"),
            ("content-type", "t"),
            ("cookie", "ct"),
            ("date", "t"),
            ("expect", "nqt"),
            ("expires", "t"),
            ("forwarded", "nqts"),
            ("host", "cnqt"),
            ("http2-settings", "hnqrt"),
            ("keep-alive", "h2nqrt"),
            ("location", "t"),
            ("max-forwards", "t"),
            ("proxy", "nqts"),
            ("proxy-authenticate", "t"),
            ("proxy-authorization", "nqts"),
            ("proxy-connection", "h2nqrt"),
            ("range", "t"),
            ("retry-after", "t"),
            ("sec-websocket-accept", "r"),
            ("sec-websocket-key", "q"),
            ("set-cookie", "t"),
            ("te", "hnqrt"),
            ("trailer", "hnqrt"),
            ("transfer-encoding", "hl2cnqrt"),
            ("upgrade", "h2nqrt"),
            ("vary", "t"),
            ("via", "qt"),
            ("www-authenticate", "t"),
            ("x-forwarded-client-cert", "niqts"),
            ("x-forwarded-for", "niqts"),
            ("x-forwarded-host", "iqt"),
            ("x-forwarded-port", "iqt"),
            ("x-forwarded-proto", "iqt"),
            ("x-real-ip", "nqts"),
            ("x-request-id", "niqts"),
            ("x-tidegate-attempt", "iqt"),
            ("x-tidegate-mirror", "iqt"),
        ];
        for (name, expected) in table {
            let found: String =
                LETTERS.iter().filter(|(_, flag)| flags(name).has_any(*flag)).map(|(letter, _)| letter).collect();
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(table.len(), NAMES.len(), "every name has a row here");
    }

    #[test]
    fn other_names_have_none() {
        for name in ["", "x", "accept", "user-agent", "hoot", "hxst", "x-forwarded-pyrt", "connection ", "etag"] {
            assert_eq!(flags(name), FieldFlags::NONE, "{name}");
        }
        let long = "x".repeat(70_000);
        assert_eq!(flags(&long), FieldFlags::NONE);
        assert_eq!(flags_as_written(long.as_bytes()), FieldFlags::NONE);
        assert_eq!(flags_as_written(b"\xff\xfe"), FieldFlags::NONE);
    }

    #[test]
    fn names_are_found_as_they_are_written_in_messages() {
        for name in NAMES {
            assert_eq!(flags_as_written(name.to_ascii_uppercase().as_bytes()), flags(name), "{name}");
        }
    }
}
