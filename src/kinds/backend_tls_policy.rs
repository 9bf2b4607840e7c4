//! BackendTLSPolicy: how TLS is spoken to the pods of a Service.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use super::violation::Violation;
use crate::api::backend_tls_policy::{BackendTlsPolicy, BackendTlsPolicySpec};

/// A BackendTLSPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BackendTlsPolicy")]
pub struct TlsPolicy {
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// What is asked for.
    pub spec: BackendTlsPolicySpec,
}

impl From<BackendTlsPolicy> for TlsPolicy {
    fn from(object: BackendTlsPolicy) -> Self {
        let metadata = object.metadata;
        Self {
            generation: metadata.generation,
            created: metadata.creation_timestamp.map(|time| time.0),
            spec: object.spec,
        }
    }
}

impl Kind for TlsPolicy {
    const NAME: &'static str = "BackendTLSPolicy";
    const API_VERSIONS: &'static [&'static str] = &BackendTlsPolicy::API_VERSIONS;
    const HAS_STATUS: bool = true;

    type Manifest = BackendTlsPolicy;

    fn schema() -> Value {
        schema_of::<BackendTlsPolicy>()
    }

    fn check(manifest: &BackendTlsPolicy) -> Vec<Violation> {
        let validation = &manifest.spec.validation;
        let mut violations = Vec::new();
        let most = |path: &str, count: usize, most: usize| {
            (count > most).then(|| Violation::new(path, format!("{count} entries"), format!("at most {most}")))
        };
        violations.extend(most("spec.validation.caCertificateRefs", validation.ca_certificate_refs.len(), 8));
        violations.extend(most("spec.validation.subjectAltNames", validation.subject_alt_names.len(), 5));
        let (refs, known) =
            (!validation.ca_certificate_refs.is_empty(), validation.well_known_ca_certificates.is_some());
        if refs == known {
            let found = if refs { "both caCertificateRefs and wellKnownCACertificates" } else { "neither" };
            let expected = "either caCertificateRefs or wellKnownCACertificates";
            violations.push(Violation::new("spec.validation", found, expected));
        }
        violations
    }

    fn reduce(manifest: BackendTlsPolicy) -> Self {
        manifest.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_trusts_either_named_authorities_or_those_of_the_system() {
        let check = |validation: Value| {
            let manifest = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                "metadata": {}, "spec": { "targetRefs": [], "validation": validation } });
            TlsPolicy::check(&serde_json::from_value(manifest).expect("a policy")).len()
        };
        let reference = json!({ "group": "", "kind": "ConfigMap", "name": "ca" });
        assert_eq!(check(json!({ "hostname": "a.test", "caCertificateRefs": [reference] })), 0);
        assert_eq!(check(json!({ "hostname": "a.test", "wellKnownCACertificates": "System" })), 0);
        assert_eq!(check(json!({ "hostname": "a.test" })), 1);
        let both =
            json!({ "hostname": "a.test", "caCertificateRefs": [reference], "wellKnownCACertificates": "System" });
        assert_eq!(check(both), 1);
        assert_eq!(check(json!({ "hostname": "a.test", "caCertificateRefs": vec![reference; 9] })), 1);
    }
}
