//! Further tries of a rule's failed requests, as plain values.

use std::time::Duration;

use http::{Method, StatusCode};

/// What is tried again, how often, and with which pauses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Tries after the first; 1 to 10.
    pub attempts: u8,
    /// A connection that could not be made, or a request of which the endpoint has seen nothing.
    pub on_connect_failure: bool,
    /// A connection that broke before a byte of the response.
    pub on_reset: bool,
    /// A try that ran into its deadline, although the endpoint had the whole request.
    pub on_timeout: bool,
    /// Statuses of responses.
    pub codes: Box<[StatusCode]>,
    /// Statuses of gRPC that come in the response head.
    pub grpc_codes: GrpcCodes,
    /// Methods that may be sent again once an endpoint has seen something of the request.
    pub methods: Box<[Method]>,
    /// The longest pause before the first further try; it doubles with each.
    pub backoff: Duration,
    /// The longest pause before any try, and the longest that an endpoint may ask for.
    pub max_backoff: Duration,
    /// How many further tries there may be in relation to requests.
    pub budget: Budget,
    /// Bytes of a request's body that are kept to be sent again.
    pub max_body: usize,
}

/// Methods that are idempotent and that clients send (RFC 9110 §9.2.2): they are tried again unless a rule lists others.
pub const IDEMPOTENT: [Method; 5] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];

/// A set of gRPC statuses, as their numbers are (0 to 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GrpcCodes(u32);

impl GrpcCodes {
    /// Adds a status by its number; one above 31 has no place.
    pub fn insert(&mut self, code: u32) {
        self.0 |= 1_u32.checked_shl(code).unwrap_or(0);
    }

    /// Whether a status is in the set.
    #[must_use]
    pub fn contains(self, code: u32) -> bool {
        self.0 & 1_u32.checked_shl(code).unwrap_or(0) != 0
    }

    /// Whether the set has none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<u32> for GrpcCodes {
    fn from_iter<I: IntoIterator<Item = u32>>(codes: I) -> Self {
        let mut set = Self::default();
        codes.into_iter().for_each(|code| set.insert(code));
        set
    }
}

/// The bound of further tries in relation to requests, of one backend over all rules of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Further tries in percent of the requests of the last `interval`; 0 to 100.
    pub percent: u32,
    /// The time over which both are counted; whole seconds, 1 to 60.
    pub interval: Duration,
    /// Further tries a second that are allowed beyond that share.
    pub min_per_second: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_statuses_has_what_was_put_in() {
        let set: GrpcCodes = [1, 14].into_iter().collect();
        let has: Vec<u32> = (0..40).filter(|code| set.contains(*code)).collect();
        assert_eq!(has, [1, 14]);
        assert!(GrpcCodes::default().is_empty() && !set.is_empty());
        let mut none = GrpcCodes::default();
        none.insert(99);
        assert!(none.is_empty());
    }
}
