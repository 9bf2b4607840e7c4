//! Fields that are no longer true of a compressed body.

use http::HeaderName;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH};

/// Fields that say something about the bytes that are sent (RFC 9530 §2 and §3, RFC 9110 §14.3, RFC 1864).
pub(super) const OF_BYTES: [HeaderName; 6] = [
    CONTENT_LENGTH,
    ACCEPT_RANGES,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];
