//! Filters that shape answers, or give them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::open_enum::{OpenEnum, known_values};
use crate::api::schema;

/// Cross-origin resource sharing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Cors {
    /// Origins that may read answers; `*` for all, or a leading wildcard label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<253>, 64>")]
    pub allow_origins: Vec<String>,
    /// Whether requests may carry credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub allow_credentials: Option<bool>,
    /// Methods that may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<16>, 10>")]
    pub allow_methods: Vec<String>,
    /// Headers that requests may carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<256>, 64>")]
    pub allow_headers: Vec<String>,
    /// Headers that scripts may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<256>, 64>")]
    pub expose_headers: Vec<String>,
    /// How long a preflight answer may be kept, in seconds.
    #[serde(default = "five")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_age: u32,
}

fn five() -> u32 {
    5
}

known_values! {
    /// Coding of a compressed response.
    pub enum CompressionAlgorithm {
        /// Brotli.
        Brotli = "br",
        /// gzip.
        Gzip = "gzip",
        /// Zstandard.
        Zstd = "zstd",
    }
}

/// Compression of responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Compression {
    /// Codings in order of preference.
    #[schemars(with = "schema::Atomic<OpenEnum<CompressionAlgorithm>, 3>")]
    pub algorithms: Vec<OpenEnum<CompressionAlgorithm>>,
    /// Smallest response that is compressed, in bytes.
    #[schemars(with = "schema::IntFrom<0>")]
    pub min_bytes: u32,
    /// Media types that are compressed; default: text, JSON, XML, JavaScript and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<128>, 32>")]
    pub content_types: Vec<String>,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            algorithms: vec![CompressionAlgorithm::Brotli.into(), CompressionAlgorithm::Gzip.into()],
            min_bytes: 1024,
            content_types: Vec::new(),
        }
    }
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct DirectResponse {
    /// Status of the answer.
    #[schemars(with = "schema::Int<200, 599>")]
    pub status_code: u16,
    /// Media type of the body.
    #[serde(default = "text_plain")]
    #[schemars(with = "schema::PlainText<128>")]
    pub content_type: String,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<4096>")]
    pub body: Option<String>,
}

fn text_plain() -> String {
    "text/plain".to_owned()
}
