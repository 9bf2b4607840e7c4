//! What a kind of objects has to provide.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::violation::Violation;

/// A kind of objects, by the form in which they are held.
pub trait Kind: Sized + Send + Sync + 'static {
    /// The kind, as manifests write it.
    const NAME: &'static str;
    /// `apiVersion`s that are read, the preferred one first.
    const API_VERSIONS: &'static [&'static str];
    /// Objects belong to a namespace.
    const IS_NAMESPACED: bool = true;
    /// The kind has a status subresource: an API server drops a `status` that a manifest states, without a word.
    const HAS_STATUS: bool = false;

    /// An object as users and API servers write it.
    type Manifest: DeserializeOwned;

    /// The schema of a manifest, with everything inline and CEL rules in `x-kubernetes-validations`.
    fn schema() -> Value;

    /// What an API server asks of a manifest beyond the schema: everything that it would refuse.
    fn check(_manifest: &Self::Manifest) -> Vec<Violation> {
        Vec::new()
    }

    /// Keeps of an object what a compilation reads.
    fn reduce(manifest: Self::Manifest) -> Self;
}

/// The schema of a Rust type with everything inline.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
