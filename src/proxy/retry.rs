//! When a request that failed is sent again (decision 22). Pure: facts in, verdict out.

use http::Method;

/// How far a failed try had got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The connection had carried an exchange before.
    pub reused: bool,
    /// Bytes of the request that were handed to the socket; 0 also when no connection came about.
    pub written: u64,
    /// Bytes of the body that were read from the client; they are not kept.
    pub body_read: u64,
    /// A byte of a response came.
    pub received: bool,
}

/// What to do with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to another endpoint of the rule.
    OtherEndpoint,
    /// Send it to the same endpoint on a fresh connection.
    FreshConnection,
    /// Answer the failure.
    GiveUp,
}

/// The tries that one exchange has left: each kind once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    other_endpoint: bool,
    fresh_connection: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { other_endpoint: true, fresh_connection: true }
    }
}

impl Tries {
    /// Decides about a failure whose kind allows another try, and takes the try it grants.
    ///
    /// A request of which no byte was sent may go to another endpoint, whatever its method. When a *reused* connection
    /// fails before a response byte, the endpoint most likely closed it while idle: the request may go once more to the
    /// same endpoint on a fresh connection, if no byte of it was written, or if the method is idempotent and no body
    /// byte was read (`any_method` lifts the condition on the method).
    pub fn decide(&mut self, method: &Method, progress: Progress, any_method: bool) -> Verdict {
        if progress.received {
            return Verdict::GiveUp;
        }
        if progress.reused {
            let repeatable = progress.written == 0 || progress.body_read == 0 && (any_method || is_idempotent(method));
            if repeatable && std::mem::take(&mut self.fresh_connection) {
                return Verdict::FreshConnection;
            }
            return Verdict::GiveUp;
        }
        if progress.written == 0 && std::mem::take(&mut self.other_endpoint) {
            return Verdict::OtherEndpoint;
        }
        Verdict::GiveUp
    }
}

/// The methods that decision 22 names; TRACE never gets here.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_as_the_table_says() {
        use Verdict::{FreshConnection, GiveUp, OtherEndpoint};
        let fresh = |written, body_read| Progress { reused: false, written, body_read, received: false };
        let reused = |written, body_read| Progress { reused: true, written, body_read, received: false };
        let table = [
            ("nothing sent, any method", Method::POST, fresh(0, 0), false, OtherEndpoint),
            ("nothing sent, body in hand", Method::POST, fresh(0, 9), false, OtherEndpoint),
            ("sent on a fresh connection", Method::GET, fresh(1, 0), false, GiveUp),
            ("stale, nothing written", Method::POST, reused(0, 0), false, FreshConnection),
            ("stale, idempotent", Method::GET, reused(80, 0), false, FreshConnection),
            ("stale, idempotent with unread body", Method::PUT, reused(80, 0), false, FreshConnection),
            ("stale, idempotent with read body", Method::PUT, reused(80, 5), false, GiveUp),
            ("stale, not idempotent", Method::POST, reused(80, 0), false, GiveUp),
            ("stale, not idempotent, allowed", Method::POST, reused(80, 0), true, FreshConnection),
            ("stale, not idempotent, allowed, body read", Method::POST, reused(80, 5), true, GiveUp),
            ("a response byte came", Method::GET, Progress { received: true, ..reused(80, 0) }, true, GiveUp),
        ];
        for (name, method, progress, any_method, expected) in table {
            assert_eq!(Tries::default().decide(&method, progress, any_method), expected, "{name}");
        }
    }

    #[test]
    fn each_kind_is_granted_once() {
        let mut tries = Tries::default();
        let stale = Progress { reused: true, written: 80, ..Progress::default() };
        assert_eq!(tries.decide(&Method::GET, stale, false), Verdict::FreshConnection);
        assert_eq!(tries.decide(&Method::GET, Progress::default(), false), Verdict::OtherEndpoint);
        assert_eq!(tries.decide(&Method::GET, Progress::default(), false), Verdict::GiveUp);
        assert_eq!(tries.decide(&Method::GET, stale, false), Verdict::GiveUp);
    }
}
