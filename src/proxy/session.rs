//! Sessions of clients: what a request says about its session, and what its answer tells the client.
//!
//! The value is read and taken away before the first pick, so that no endpoint sees it. A value is sent with an endpoint's
//! answer when the session is new, when it had to move, or when it would time out while it is used.

use std::time::{Duration, SystemTime};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::decision::{Decision, Matched, Presented};
use super::exchange::Exchange;
use crate::balance::{PickRequest, Picked, SessionKey, SessionValue, Times, Validity};
use crate::model::request_values;
use crate::model::session::{Carrier, Cookie, Session};
use crate::telemetry::metrics::SessionResult;

/// A client may send several cookies of one name (RFC 6265 §5.4); so many of them are looked at.
const MOST_VALUES: usize = 4;

impl Decision {
    /// Reads the session of a request whose rule has them, and takes its value out of the fields.
    pub(super) fn read_session(&mut self, matched: &Matched, session: &Session) {
        let now = if session.is_timed() { unix_seconds() } else { 0 };
        let key = matched.live().session_key();
        let judge = |text: &[u8]| {
            let value = SessionValue::parse(text, key)?;
            let is_due = match value.validity(session, now) {
                Validity::Valid => false,
                Validity::Due => true,
                Validity::Expired => return None,
            };
            let began = value.times.map_or(0, |times| u32::try_from(times.began).unwrap_or(u32::MAX));
            Some(Presented { id: Some(value.id), began, is_due })
        };
        let leads = |presented: &Presented| {
            presented.id.is_some_and(|id| {
                matched.live().pinned(matched.id(), id, None, &PickRequest::default(), Duration::ZERO).is_some()
            })
        };
        let mut found: Option<Presented> = None;
        let mut look = |text: &[u8]| {
            let Some(presented) = judge(text) else { return };
            // Of several, one that is left over from an older version of the route leads nowhere.
            if found.is_none_or(|first| !leads(&first) && leads(&presented)) {
                found = Some(presented);
            }
        };
        match &session.carrier {
            Carrier::Cookie(cookie) => {
                let mut is_there = false;
                for text in request_values::cookie(&self.fields, &cookie.name).take(MOST_VALUES) {
                    is_there = true;
                    look(text);
                }
                if is_there {
                    remove_cookie(&mut self.fields, &cookie.name);
                }
            }
            Carrier::Header(name) => {
                self.fields.get_all(name).iter().take(MOST_VALUES).for_each(|value| look(value.as_bytes()));
                self.fields.remove(name);
            }
        }
        self.session = Some(found.unwrap_or_default());
    }
}

impl Exchange {
    /// Puts the session's value into an endpoint's answer, where the client does not have it yet.
    pub(super) fn answer_session(&mut self, matched: &Matched, picked: &Picked, session: &Session) {
        let (Some(presented), Some(index)) = (self.decision.session.take(), matched.live().sessions_of(picked.backend))
        else {
            return;
        };
        let is_there = |id| index.find(id).is_some_and(|endpoint| std::sync::Arc::ptr_eq(endpoint, &picked.endpoint));
        let result = match presented.id {
            Some(id) if is_there(id) => SessionResult::Kept,
            Some(_) => SessionResult::Moved,
            None => SessionResult::New,
        };
        self.account.worker.metrics().session(result);
        if let Some(entry) = &mut self.account.entry {
            entry.session = Some(result);
        }
        let status = self.reply.status;
        let is_silent = status == StatusCode::NOT_MODIFIED
            || (status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS);
        if is_silent || (result == SessionResult::Kept && !presented.is_due) {
            return;
        }
        let now = if session.is_timed() { unix_seconds() } else { 0 };
        // A session that moves does not begin anew: `absoluteTimeout` holds for all of it.
        let began = if presented.began == 0 { now } else { u64::from(presented.began) };
        let value = SessionValue {
            id: index.id(&picked.endpoint.key),
            times: session.is_timed().then_some(Times { began, sent: now }),
        };
        let is_secure = self.decision.client.target.scheme == "https";
        let (name, text) = field(session, &value, index.key(), (now.saturating_sub(began), is_secure));
        self.reply.fields.append(name, text);
    }
}

/// The field of an answer that gives a client its value. `age` is that of the session, in seconds.
fn field(
    session: &Session,
    value: &SessionValue,
    key: &SessionKey,
    (age, is_secure): (u64, bool),
) -> (HeaderName, HeaderValue) {
    let mut text = Vec::with_capacity(160);
    let name = match &session.carrier {
        Carrier::Header(name) => {
            value.write(key, &mut text);
            name.clone()
        }
        Carrier::Cookie(cookie) => {
            let Cookie { name, path, same_site, secure, http_only, is_permanent } = cookie;
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            value.write(key, &mut text);
            text.extend_from_slice(b"; Path=");
            text.extend_from_slice(path.as_bytes());
            if let Some(longest) = session.absolute_timeout.filter(|_| *is_permanent) {
                text.extend_from_slice(b"; Max-Age=");
                let left = longest.as_secs().saturating_sub(age);
                text.extend_from_slice(itoa::Buffer::new().format(left).as_bytes());
            }
            if secure.unwrap_or(is_secure) {
                text.extend_from_slice(b"; Secure");
            }
            if *http_only {
                text.extend_from_slice(b"; HttpOnly");
            }
            if let Some(same_site) = same_site {
                text.extend_from_slice(b"; SameSite=");
                text.extend_from_slice(same_site.as_str().as_bytes());
            }
            SET_COOKIE
        }
    };
    (name, HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).expect("name and path were checked when compiled"))
}

/// Removes all cookies of a name; the others stay as they are.
fn remove_cookie(fields: &mut HeaderMap, name: &str) {
    if fields.get_all(COOKIE).iter().nth(1).is_none() {
        // Most clients send them in one line.
        match fields.get(COOKIE).map(|line| without_cookie(line, name)) {
            Some(Kept::Some(rest)) => drop(fields.insert(COOKIE, rest)),
            Some(Kept::None) => drop(fields.remove(COOKIE)),
            Some(Kept::All) | None => {}
        }
        return;
    }
    let kept: Vec<HeaderValue> = fields
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| match without_cookie(line, name) {
            Kept::All => Some(line.clone()),
            Kept::Some(rest) => Some(rest),
            Kept::None => None,
        })
        .collect();
    fields.remove(COOKIE);
    for line in kept {
        fields.append(COOKIE, line);
    }
}

/// What is left of a line of cookies without those of a name.
enum Kept {
    /// There are none of the name.
    All,
    /// The others, in their order.
    Some(HeaderValue),
    /// There are no others.
    None,
}

fn without_cookie(line: &HeaderValue, name: &str) -> Kept {
    let has =
        |pair: &[u8]| memchr::memchr(b'=', pair).is_some_and(|end| pair[..end].trim_ascii_end() == name.as_bytes());
    let pairs = || line.as_bytes().split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    if !pairs().any(has) {
        return Kept::All;
    }
    let others = || pairs().filter(|pair| !pair.is_empty() && !has(pair));
    // Exactly what is needed: with room to spare it would be moved into a smaller place.
    let length = others().map(|pair| pair.len() + 2).sum::<usize>().saturating_sub(2);
    if length == 0 {
        return Kept::None;
    }
    let mut rest = Vec::with_capacity(length);
    for pair in others() {
        if !rest.is_empty() {
            rest.extend_from_slice(b"; ");
        }
        rest.extend_from_slice(pair);
    }
    Kept::Some(HeaderValue::from_maybe_shared(bytes::Bytes::from(rest)).expect("bytes of a valid value"))
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::SessionKey;
    use crate::model::backend::{BackendKey, Protocol};
    use crate::model::ids::{EndpointKey, ObjectName};
    use crate::model::session::SameSite;

    #[test]
    fn a_cookie_is_removed_and_others_stay() {
        for (lines, expected) in [
            (&["sid=1"][..], &[][..]),
            (&["sid=1; a=2"], &["a=2"]),
            (&["a=2; sid=1"], &["a=2"]),
            (&["a=1; sid=x; b=2;sid=y;  c=3"], &["a=1; b=2; c=3"]),
            (&["a=1", "sid=1", "b=2; sid=1"], &["a=1", "b=2"]),
            (&[" sid = 1 ; flag; Sid=2"], &["flag; Sid=2"]),
            // Not touched at all, whatever it looks like.
            (&["a=1;;b=2 ; sidx=1"], &["a=1;;b=2 ; sidx=1"]),
            (&["sid"], &["sid"]),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(COOKIE, line.parse().expect("value"));
            }
            fields.insert("x-other", HeaderValue::from_static("sid=1"));
            remove_cookie(&mut fields, "sid");
            let left: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(left, expected.iter().map(|line| line.as_bytes()).collect::<Vec<_>>(), "{lines:?}");
            assert_eq!(fields.get("x-other").map(HeaderValue::as_bytes), Some(&b"sid=1"[..]));
        }
    }

    #[test]
    fn a_field_has_the_attributes_of_the_rule() {
        let key = SessionKey::default();
        let backend = BackendKey { service: ObjectName::new("a", "b"), port: 80, protocol: Protocol::Http };
        let endpoint = EndpointKey { addr: "10.0.0.1:80".parse().expect("address"), uid: Some("u".into()) };
        let value = SessionValue { id: key.id(&backend, &endpoint), times: None };
        let mut written = Vec::new();
        value.write(&key, &mut written);
        let written = String::from_utf8(written).expect("ASCII");
        let plain = Cookie {
            name: "sid".into(),
            path: "/".into(),
            same_site: None,
            secure: None,
            http_only: true,
            is_permanent: false,
        };
        let every = Cookie {
            path: "/shop".into(),
            same_site: Some(SameSite::None),
            secure: Some(true),
            http_only: false,
            is_permanent: true,
            ..plain.clone()
        };
        for (cookie, age, is_secure, expected) in [
            (&plain, 0, false, "; Path=/; HttpOnly"),
            (&plain, 0, true, "; Path=/; Secure; HttpOnly"),
            (&every, 0, false, "; Path=/shop; Max-Age=3600; Secure; SameSite=None"),
            (&every, 600, false, "; Path=/shop; Max-Age=3000; Secure; SameSite=None"),
            (&Cookie { secure: Some(false), ..plain.clone() }, 0, true, "; Path=/; HttpOnly"),
        ] {
            let session = Session {
                carrier: Carrier::Cookie(cookie.clone()),
                absolute_timeout: Some(Duration::from_secs(3600)),
                idle_timeout: None,
            };
            let (name, text) = field(&session, &value, &key, (age, is_secure));
            assert_eq!((name, text.to_str().expect("ASCII")), (SET_COOKIE, &*format!("sid={written}{expected}")));
        }
        let name = HeaderName::from_static("x-session");
        let session = Session { carrier: Carrier::Header(name.clone()), absolute_timeout: None, idle_timeout: None };
        assert_eq!(field(&session, &value, &key, (0, true)), (name, written.parse().expect("value")));
    }
}
