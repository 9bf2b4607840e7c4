//! APIKey: admission by a key that names the client.

use http::StatusCode;

use super::credential::{Shown, shown, take_out};
use super::layer::{Director, Flow, challenge, refuse};
use crate::model::filter::ApiKey;
use crate::reason::Reason;
use crate::telemetry::metrics::{AuthFilter, AuthVerdict};

pub(super) fn request(filter: &ApiKey, director: &mut Director<'_, '_>) -> Flow {
    let count = |verdict| director.means.auth.count(AuthFilter::ApiKey, verdict);
    let Some(keys) = &filter.keys else {
        count(AuthVerdict::Error);
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::FilterRef);
    };
    let client = match shown(&filter.from, director) {
        Shown::One(key) => keys.client(&key),
        Shown::Nothing | Shown::Several => None,
    };
    let Some(client) = client else {
        count(AuthVerdict::Denied);
        return challenge(&filter.challenge, Reason::ApiKey);
    };
    count(AuthVerdict::Passed);
    if !filter.forward {
        take_out(&filter.from, director);
    }
    if let Some(name) = &filter.client_header {
        director.headers.insert(name, client.value.clone());
    }
    director.found_user(&client.name);
    Flow::Continue
}
