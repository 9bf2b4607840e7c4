//! RequestMirror: asks for copies of requests, as they stand at its place among the layers.

use super::layer::{Director, OwnRequest};
use crate::model::filter::Mirror;

/// Asks for a copy of this request, or lets it pass without one: the share is drawn for each request by itself.
pub(super) fn request(mirror: &Mirror, director: &mut Director<'_, '_>) {
    let (Some(backend), (part, whole)) = (&mirror.backend, mirror.share) else { return };
    let Some(copies) = director.copies.as_mut() else { return };
    if part < whole && director.means.rng.borrow_mut().u32(..whole) >= part {
        return;
    }
    copies.push(OwnRequest {
        backend: backend.clone(),
        method: director.method.clone(),
        headers: director.headers.clone(),
        host: director.host.clone(),
        path: director.path.as_ref().into(),
        query: director.query.as_deref().map(Into::into),
    });
}
