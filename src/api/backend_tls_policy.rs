//! BackendTLSPolicy of Gateway API, v1: how TLS is spoken to the pods of a Service.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::{OpenEnum, known_values};
use super::schema;

/// How TLS is spoken to the pods of the Services that it names, and whom to trust there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicy {
    /// `gateway.networking.k8s.io/v1`.
    pub api_version: String,
    /// `BackendTLSPolicy`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: BackendTlsPolicySpec,
}

/// What a BackendTLSPolicy asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// The Services that it is for, all of its own namespace; 1–16 entries.
    #[schemars(with = "schema::AtomicSome<PolicyTarget, 16>")]
    pub target_refs: Vec<PolicyTarget>,
    /// Whom to trust.
    pub validation: BackendTlsValidation,
    /// Settings of single implementations; there are none here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A Service that a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// Group of the object; empty for core.
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// `Service`.
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Its name.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// The name of one of its ports; without it, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Name")]
    pub section_name: Option<String>,
}

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsValidation {
    /// ConfigMaps of the same namespace with certificates of authorities in `ca.crt`; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
    /// `System`: the authorities that the gateway's system trusts.
    #[serde(default, rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<OpenEnum<WellKnownCaCertificates>>,
    /// The server name of the handshake; the certificate has to be for it where there are no `subjectAltNames`.
    #[schemars(with = "schema::Name")]
    pub hostname: String,
    /// The certificate has to have one of these names; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object with certificates of authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaCertificateRef {
    /// Group of the object; empty for core.
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// `ConfigMap`.
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Its name.
    #[schemars(with = "schema::Name")]
    pub name: String,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectAltName {
    /// Which of the members counts.
    #[serde(rename = "type")]
    pub kind: OpenEnum<SubjectAltNameType>,
    /// A DNS name; the first label may be `*`, which a certificate has to have literally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Name")]
    pub hostname: Option<String>,
    /// A URI, such as `spiffe://mesh.example.com/ns/shop/sa/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Name")]
    pub uri: Option<String>,
}

known_values! {
    /// Sets of authorities that have a name.
    pub enum WellKnownCaCertificates {
        /// Those that the gateway's system trusts.
        System = "System",
    }
}

known_values! {
    /// What kind of name a certificate has to have.
    pub enum SubjectAltNameType {
        /// A DNS name.
        Hostname = "Hostname",
        /// A URI.
        Uri = "URI",
    }
}

known_values! {
    /// Why a condition of a policy's status has its status, in the words of Gateway API.
    pub enum PolicyReason {
        /// Accepted is True: requests to at least one target follow the policy.
        Accepted = "Accepted",
        /// Accepted is False: other policies come first at all of its targets.
        Conflicted = "Conflicted",
        /// Accepted is False: a value cannot be followed.
        Invalid = "Invalid",
        /// Accepted is False: there are no such Services or ports.
        TargetNotFound = "TargetNotFound",
        /// Accepted is False: no reference to authorities leads to some.
        NoValidCaCertificate = "NoValidCACertificate",
        /// ResolvedRefs is True.
        ResolvedRefs = "ResolvedRefs",
        /// ResolvedRefs is False: a reference leads to no authorities.
        InvalidCaCertificateRef = "InvalidCACertificateRef",
        /// ResolvedRefs is False: a reference is to a kind that authorities are not taken from.
        InvalidKind = "InvalidKind",
    }
}

impl BackendTlsPolicy {
    /// Versions that are read.
    pub const API_VERSIONS: [&'static str; 1] = ["gateway.networking.k8s.io/v1"];
}
