//! How wire types become the CRD's schema: types that exist only to be named in `#[schemars(with = "…")]`.
//!
//! Rust types of fields stay plain (`String`, `Vec`); bounds, patterns and list types stand beside them as one of the
//! types here, so that the same bound is written once.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// DNS subdomain, RFC 1123.
pub const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const HOSTNAME: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND: &str = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const DNS_LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// HTTP token, RFC 9110 §5.6.2 (`\x60` is the backtick).
const TOKEN: &str = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$";
/// No CR, LF, NUL and other control bytes but TAB, RFC 9110 §5.5.
pub const NO_CONTROL: &str = r"^[^\x00-\x08\x0A-\x1F\x7F]*$";
const DURATION: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// Only final statuses: no response ends with an interim one.
const STATUS_RANGE: &str = r"^[2-5][0-9]{2}(-[2-5][0-9]{2})?$";
/// Path and query as a request line has them, RFC 9112 §3.2.1: no space, no control, no fragment.
const REQUEST_PATH: &str = r##"^/[!-"$-~]*$"##;
const CONTROLLER: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&()*+,;=:]+$";
const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$";
const CONDITION_REASON: &str = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";

/// The extension that carries CEL rules.
pub const VALIDATIONS: &str = "x-kubernetes-validations";

/// CEL rules with their messages as the value of [`VALIDATIONS`].
pub fn cel(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect()
}

/// Declares a type whose only use is its inline schema.
macro_rules! schema_only {
    ($($(#[$meta:meta])* $name:ident $(<$(const $parameter:ident: $kind:ty),+>)? = $schema:tt;)+) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub enum $name $(<$(const $parameter: $kind),+>)? {}

            impl $(<$(const $parameter: $kind),+>)? JsonSchema for $name $(<$($parameter),+>)? {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }

                fn schema_id() -> Cow<'static, str> {
                    Cow::Borrowed(std::any::type_name::<Self>())
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )+
    };
}

schema_only! {
    /// DNS subdomain of up to 253 characters.
    DnsSubdomain = { "type": "string", "minLength": 1, "maxLength": 253, "pattern": DNS_SUBDOMAIN };
    /// DNS label of up to 63 characters: a namespace.
    DnsLabel = { "type": "string", "minLength": 1, "maxLength": 63, "pattern": DNS_LABEL };
    /// Hostname with an optional leading `*.`.
    Hostname = { "type": "string", "minLength": 1, "maxLength": 253, "pattern": HOSTNAME };
    /// API group; empty for core.
    Group = { "type": "string", "maxLength": 253, "pattern": GROUP };
    /// Kind of an object.
    Kind = { "type": "string", "minLength": 1, "maxLength": 63, "pattern": KIND };
    /// Name of an object.
    Name = { "type": "string", "minLength": 1, "maxLength": 253 };
    /// HTTP token: the name of a header, query parameter or cookie.
    Token = { "type": "string", "minLength": 1, "maxLength": 256, "pattern": TOKEN };
    /// Non-empty value of a header, without control bytes.
    HeaderText = { "type": "string", "minLength": 1, "maxLength": 4096, "pattern": NO_CONTROL };
    /// GEP-2257 duration.
    Duration = { "type": "string", "maxLength": 24, "pattern": DURATION };
    /// Status code or range of codes, `200` or `200-299`.
    StatusRange = { "type": "string", "maxLength": 7, "pattern": STATUS_RANGE };
    /// Path of a request, with a query or without.
    RequestPath = { "type": "string", "maxLength": 1024, "pattern": REQUEST_PATH };
    /// http or https URL.
    HttpUrl = { "type": "string", "maxLength": 253, "pattern": "^https?://" };
    /// Name of a load-balancing algorithm.
    AlgorithmName = { "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Z][A-Za-z0-9]*$" };
    /// `domain/path` of a controller.
    ControllerName = { "type": "string", "minLength": 1, "maxLength": 253, "pattern": CONTROLLER };
    /// Any text of at most `MAX` characters.
    Text<const MAX: u32> = { "type": "string", "maxLength": MAX };
    /// Text of 1 to `MAX` characters.
    SomeText<const MAX: u32> = { "type": "string", "minLength": 1, "maxLength": MAX };
    /// Text of at most `MAX` characters without control bytes.
    PlainText<const MAX: u32> = { "type": "string", "maxLength": MAX, "pattern": NO_CONTROL };
    /// Integer of 32 bits between two bounds, both included.
    Int<const MIN: i32, const MAX: i32> = { "type": "integer", "format": "int32", "minimum": MIN, "maximum": MAX };
    /// Integer of 32 bits with a lower bound.
    IntFrom<const MIN: i32> = { "type": "integer", "format": "int32", "minimum": MIN };
    /// Integer of 64 bits with a lower bound.
    LongFrom<const MIN: i64> = { "type": "integer", "format": "int64", "minimum": MIN };
    /// Close code of a WebSocket that may stand in a close frame, RFC 6455 §7.4.
    CloseCode = {
        "type": "integer", "format": "int32", "minimum": 1000, "maximum": 4999,
        "x-kubernetes-validations": cel(&[(
            "self <= 1003 || (self >= 1007 && self <= 1014) || self >= 3000",
            "closeCode is 1000-1003, 1007-1014 or 3000-4999",
        )])
    };
    /// Status of a redirect.
    RedirectStatus = { "type": "integer", "enum": [301, 302, 303, 307, 308] };
    /// One condition, with the bounds of `meta/v1`.
    Condition = {
        "type": "object",
        "properties": {
            "type": { "type": "string", "maxLength": 316, "pattern": CONDITION_TYPE,
                "description": "Type of the condition." },
            "status": { "type": "string", "enum": ["True", "False", "Unknown"],
                "description": "Whether the condition holds." },
            "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": CONDITION_REASON,
                "description": "Why the condition has this status, one word for programs." },
            "message": { "type": "string", "maxLength": 32768, "description": "The same for people; may be empty." },
            "lastTransitionTime": { "type": "string", "format": "date-time",
                "description": "When the status last changed." },
            "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0,
                "description": "The metadata.generation that this condition speaks of." }
        },
        "required": ["type", "status", "reason", "message", "lastTransitionTime"]
    };
}

fn list<T: JsonSchema>(generator: &mut SchemaGenerator, max: u32, kind: &str, keys: &[&str]) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": max,
        "items": generator.subschema_for::<T>(),
        "x-kubernetes-list-type": kind,
    });
    if !keys.is_empty() {
        schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
    }
    schema
}

macro_rules! list_schema {
    ($($(#[$meta:meta])* $name:ident, $kind:literal, $keys:expr, $min:expr;)+) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub struct $name<T, const MAX: u32>(PhantomData<T>);

            impl<T: JsonSchema, const MAX: u32> JsonSchema for $name<T, MAX> {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }

                fn schema_id() -> Cow<'static, str> {
                    Cow::Owned(format!("{}<{}, {MAX}>", stringify!($name), T::schema_id()))
                }

                fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                    let mut schema = list::<T>(generator, MAX, $kind, $keys);
                    let least: u32 = $min;
                    if least > 0 {
                        schema.insert("minItems".to_owned(), json!(least));
                    }
                    schema
                }
            }
        )+
    };
}

list_schema! {
    /// List that is replaced as a whole, of at most `MAX` items.
    Atomic, "atomic", &[], 0;
    /// The same with at least one item.
    AtomicSome, "atomic", &[], 1;
    /// List of distinct values.
    Set, "set", &[], 0;
    /// List of objects with distinct `name`.
    MapByName, "map", &["name"], 0;
    /// The same with at least one item.
    MapByNameSome, "map", &["name"], 1;
    /// List of conditions with distinct `type`.
    MapByType, "map", &["type"], 0;
    /// The same with at least one item.
    MapByTypeSome, "map", &["type"], 1;
    /// List of status entries with distinct controller and reference.
    MapByParent, "map", &["controllerName", "ref"], 0;
}
