//! IPAccess: admission by the client's address.

use http::StatusCode;

use super::layer::{Director, Flow, refuse};
use crate::model::filter::IpAccess;
use crate::reason::Reason;

pub(super) fn request(access: &IpAccess, director: &Director<'_, '_>) -> Flow {
    let client = director.facts.client.to_canonical();
    let denied = access.deny.iter().any(|network| network.contains(&client));
    let allowed = access.allow.is_empty() || access.allow.iter().any(|network| network.contains(&client));
    if denied || !allowed { refuse(StatusCode::FORBIDDEN, Reason::IpAccess) } else { Flow::Continue }
}
