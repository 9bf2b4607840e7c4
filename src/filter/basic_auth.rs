//! BasicAuth: admission by user name and password (RFC 7617).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};

use super::layer::{Director, Flow, Question, challenge, refuse};
use super::passwords::{PasswordCheck, PasswordVerdict};
use crate::model::credentials::PasswordFile;
use crate::model::filter::BasicAuth;
use crate::reason::Reason;
use crate::telemetry::metrics::{AuthFilter, AuthVerdict};

/// Most bytes of name and password together.
const MOST_BYTES: usize = 1 << 10;

/// The scheme in front of name and password; case does not matter.
const BASIC: &[u8] = b"basic ";

/// Admits a client whose password was right a short time ago, or asks whether it is.
pub(super) fn request(filter: &BasicAuth, director: &mut Director<'_, '_>) -> Flow {
    let Some(users) = &filter.users else {
        director.means.auth.count(AuthFilter::BasicAuth, AuthVerdict::Error);
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::FilterRef);
    };
    match check(users, director) {
        None => deny(filter, director),
        Some(check) if check.is_of_user() && director.means.auth.passwords.has(check.digest, director.now) => {
            admit(filter, users, director)
        }
        Some(check) => Flow::Ask(Question::Password(Box::new(check))),
    }
}

/// Goes on with what came of the check.
pub(super) fn told(filter: &BasicAuth, verdict: PasswordVerdict, director: &mut Director<'_, '_>) -> Flow {
    match (verdict, &filter.users) {
        (PasswordVerdict::Right, Some(users)) => {
            if let Some(check) = check(users, director) {
                director.means.auth.passwords.add(check.digest, director.now);
            }
            admit(filter, users, director)
        }
        (PasswordVerdict::Right | PasswordVerdict::Wrong, _) => deny(filter, director),
        (PasswordVerdict::Busy, _) => {
            director.means.auth.count(AuthFilter::BasicAuth, AuthVerdict::Error);
            refuse(StatusCode::SERVICE_UNAVAILABLE, Reason::AuthBusy)
        }
    }
}

fn deny(filter: &BasicAuth, director: &Director<'_, '_>) -> Flow {
    director.means.auth.count(AuthFilter::BasicAuth, AuthVerdict::Denied);
    challenge(&filter.challenge, Reason::BasicAuth)
}

fn admit(filter: &BasicAuth, users: &PasswordFile, director: &mut Director<'_, '_>) -> Flow {
    let name =
        credentials(director.headers).and_then(|credentials| String::from_utf8(credentials.name().to_vec()).ok());
    let Some(user) = name.and_then(|name| users.user(&name)) else { return deny(filter, director) };
    director.means.auth.count(AuthFilter::BasicAuth, AuthVerdict::Passed);
    if !filter.forward {
        director.headers.remove(header::AUTHORIZATION);
    }
    if let Some(name) = &filter.user_header {
        director.headers.insert(name, user.value.clone());
    }
    director.found_user(&user.name);
    Flow::Continue
}

/// What has to be checked of a request; `None` where it has no name and password, or nobody could have them.
fn check(users: &Arc<PasswordFile>, director: &Director<'_, '_>) -> Option<PasswordCheck> {
    let credentials = credentials(director.headers)?;
    let name = std::str::from_utf8(credentials.name()).ok();
    PasswordCheck::new(users, name, credentials.password(), director.facts.client)
}

/// Name and password, with the colon between them.
struct Credentials {
    bytes: Vec<u8>,
    colon: usize,
}

impl Credentials {
    fn name(&self) -> &[u8] {
        &self.bytes[..self.colon]
    }

    fn password(&self) -> &[u8] {
        &self.bytes[self.colon + 1..]
    }
}

/// Those of the one Authorization line of a request; of several lines none counts.
fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next()?.as_bytes();
    if lines.next().is_some() {
        return None;
    }
    let (scheme, encoded) = line.split_at_checked(BASIC.len())?;
    if !scheme.eq_ignore_ascii_case(BASIC) || encoded.len() > MOST_BYTES * 4 / 3 + 4 {
        return None;
    }
    let bytes = STANDARD.decode(encoded.trim_ascii()).ok().filter(|bytes| bytes.len() <= MOST_BYTES)?;
    let colon = memchr::memchr(b':', &bytes)?;
    Some(Credentials { bytes, colon })
}
