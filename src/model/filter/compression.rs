//! Compression of responses, as values.

use std::sync::Arc;

use super::state_key::StateKey;

/// Which responses are compressed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Names what it counts in.
    pub state: Arc<StateKey>,
    /// Codings in order of preference, each once; at least one.
    pub codings: Vec<ContentCoding>,
    /// Responses of fewer bytes stay as they are.
    pub min_bytes: u64,
    /// Media types that are compressed; `None`: [those that compress well](is_compressible).
    pub media_types: Option<Vec<MediaRange>>,
}

impl Compression {
    /// Whether responses with this `content-type` are compressed. Messages of gRPC never are: they have a compression of
    /// their own.
    #[must_use]
    pub fn covers(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence.starts_with("application/grpc") {
            return false;
        }
        match &self.media_types {
            None => is_compressible(&essence),
            Some(ranges) => ranges.iter().any(|range| range.covers(&essence)),
        }
    }
}

/// A content coding (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentCoding {
    /// Brotli.
    Brotli,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl ContentCoding {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Brotli, Self::Gzip, Self::Zstd];

    /// Its name in `content-encoding`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Media types that a user lists, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaRange {
    /// `*/*`
    Any,
    /// `type/*`, held with its slash.
    Type(Arc<str>),
    /// `type/subtype`
    Exact(Arc<str>),
    /// `*/*+suffix` or `type/*+suffix`, held as `type/` or nothing and `+suffix`.
    Suffix(Arc<str>, Arc<str>),
}

impl MediaRange {
    /// Reads a media range without parameters; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (kind, subtype) = text.split_once('/')?;
        let is_token = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
        };
        match (kind, subtype) {
            ("*", "*") => Some(Self::Any),
            (kind, "*") if is_token(kind) => Some(Self::Type(format!("{kind}/").into())),
            (kind, subtype) => match subtype.strip_prefix("*+") {
                Some(suffix) if is_token(suffix) && (kind == "*" || is_token(kind)) => {
                    let kind = if kind == "*" { String::new() } else { format!("{kind}/") };
                    Some(Self::Suffix(kind.into(), format!("+{suffix}").into()))
                }
                Some(_) => None,
                None => (is_token(kind) && is_token(subtype)).then(|| Self::Exact(text.as_str().into())),
            },
        }
    }

    fn covers(&self, essence: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Type(kind) => essence.starts_with(&**kind),
            Self::Exact(exact) => *essence == **exact,
            Self::Suffix(kind, suffix) => essence.starts_with(&**kind) && essence.ends_with(&**suffix),
        }
    }
}

/// Media types that compress well. Event streams are not among them: some clients hold compressed events back.
fn is_compressible(essence: &str) -> bool {
    match essence {
        "text/event-stream" => false,
        "application/json"
        | "application/javascript"
        | "application/x-javascript"
        | "application/xml"
        | "application/wasm"
        | "application/x-ndjson"
        | "image/svg+xml" => true,
        other => other.starts_with("text/") || other.ends_with("+json") || other.ends_with("+xml"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::filter::FilterList;
    use crate::model::ids::ObjectName;

    fn compression(ranges: Option<&[&str]>) -> Compression {
        let state = StateKey {
            route: ObjectName { namespace: "n".into(), name: "r".into() },
            place: FilterList::Route,
            filter: "Compression",
            position: 0,
        };
        let media_types =
            ranges.map(|ranges| ranges.iter().map(|range| MediaRange::parse(range).expect("a range")).collect());
        Compression { state: Arc::new(state), codings: vec![ContentCoding::Gzip], min_bytes: 0, media_types }
    }

    #[test]
    fn what_compresses_well_is_covered_and_events_only_where_they_are_listed() {
        let default = compression(None);
        for (content_type, expected) in [
            ("text/html; charset=utf-8", true),
            ("TEXT/CSS", true),
            ("application/json", true),
            ("application/problem+json;x=y", true),
            ("application/atom+xml", true),
            ("image/svg+xml", true),
            ("application/wasm", true),
            ("text/event-stream", false),
            ("image/png", false),
            ("application/octet-stream", false),
            ("application/grpc+json", false),
            ("", false),
        ] {
            assert_eq!(default.covers(content_type), expected, "{content_type}");
        }
        let listed = compression(Some(&["text/event-stream", "font/*", "application/*+cbor"]));
        for (content_type, expected) in [
            ("text/event-stream;charset=utf-8", true),
            ("font/ttf", true),
            ("application/senml+cbor", true),
            ("text/senml+cbor", false),
            ("text/html", false),
        ] {
            assert_eq!(listed.covers(content_type), expected, "{content_type}");
        }
        let any = compression(Some(&["*/*"]));
        assert!(any.covers("x/y") && !any.covers("application/grpc"));
    }

    #[test]
    fn ranges_have_no_parameters_and_no_other_wildcards() {
        for text in ["text", "text/", "/html", "*", "*/html", "text/h*", "text/html;q=1", "a/b/c", "", "*/*+", "a b/c"]
        {
            assert_eq!(MediaRange::parse(text), None, "{text}");
        }
    }
}
