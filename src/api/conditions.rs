//! Types and reasons of conditions: the words in which a route's status speaks.
//!
//! A route may be Accepted with ResolvedRefs False: its good backends serve and the bad share answers 500. A backend
//! without endpoints is no matter of status; it answers 503 and shows in metrics.

use std::fmt;

use super::open_enum::{KnownValue, known_values};

known_values! {
    /// What a condition is about.
    pub enum ConditionType {
        /// The route is served as written at every parent that is ours: Accepted, ResolvedRefs and Programmed, with no rule
        /// dropped and no match lost to another route; stands in `status.conditions`.
        Ready = "Ready",
        /// At least one rule is served at the parent.
        Accepted = "Accepted",
        /// Every referenced object exists and may be used.
        ResolvedRefs = "ResolvedRefs",
        /// The writing replica serves this generation of the object; the message is empty.
        Programmed = "Programmed",
        /// Some rules are dropped; present only when True, with a message that begins with "Dropped Rule".
        PartiallyInvalid = "PartiallyInvalid",
        /// Some match or certificate lost to another object, which the message names.
        Conflicted = "Conflicted",
    }
}

known_values! {
    /// Why a condition has its status.
    pub enum ConditionReason {
        /// Ready is True.
        Ready = "Ready",
        /// Accepted is True.
        Accepted = "Accepted",
        /// The listener does not admit the route's namespace.
        NotAllowedByListeners = "NotAllowedByListeners",
        /// None of the route's hostnames is one of the listener.
        NoMatchingListenerHostname = "NoMatchingListenerHostname",
        /// The parent does not exist.
        NoMatchingParent = "NoMatchingParent",
        /// A value or field that this version does not act on, or a parent of a kind that is not served yet.
        UnsupportedValue = "UnsupportedValue",
        /// Filters that exclude each other.
        IncompatibleFilters = "IncompatibleFilters",
        /// Routes that delegate to each other in a circle.
        DelegationCycle = "DelegationCycle",
        /// The parent rule does not admit the route, or its own parent is not accepted.
        NotDelegated = "NotDelegated",
        /// Another namespace owns the hostname.
        HostnameOwnedByOther = "HostnameOwnedByOther",
        /// Not looked at yet.
        Pending = "Pending",
        /// ResolvedRefs is True.
        ResolvedRefs = "ResolvedRefs",
        /// A reference to another namespace without a ReferenceGrant.
        RefNotPermitted = "RefNotPermitted",
        /// A reference to a kind that cannot stand there.
        InvalidKind = "InvalidKind",
        /// A Service or its port does not exist.
        BackendNotFound = "BackendNotFound",
        /// The backend's protocol is not spoken.
        UnsupportedProtocol = "UnsupportedProtocol",
        /// The BackendTLSPolicy of a Service cannot be followed.
        InvalidBackendTlsPolicy = "InvalidBackendTlsPolicy",
        /// The object that a filter refers to does not exist, or may not be read.
        FilterNotFound = "FilterNotFound",
        /// The object that a filter refers to cannot be used.
        InvalidFilter = "InvalidFilter",
        /// A certificate does not exist.
        CertificateNotFound = "CertificateNotFound",
        /// A certificate or its key cannot be used.
        InvalidCertificate = "InvalidCertificate",
        /// Programmed is True.
        Programmed = "Programmed",
        /// The object cannot be served as it is.
        Invalid = "Invalid",
        /// The listener has no address.
        AddressNotAssigned = "AddressNotAssigned",
        /// A match equals one of another object, which wins.
        DuplicateMatch = "DuplicateMatch",
        /// A hostname is taken by a route of another protocol.
        HostnameConflict = "HostnameConflict",
        /// Another object has another certificate for the hostname, and wins.
        CertificateConflict = "CertificateConflict",
        /// Conflicted is False.
        NoConflicts = "NoConflicts",
    }
}

impl ConditionType {
    /// The type as it is written in a status.
    pub fn as_str(self) -> &'static str {
        KnownValue::as_str(self)
    }
}

impl ConditionReason {
    /// The reason as it is written in a status.
    pub fn as_str(self) -> &'static str {
        KnownValue::as_str(self)
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_variants_and_fit_the_schema() {
        for condition in ConditionType::ALL {
            assert_eq!(condition.to_string(), format!("{condition:?}"));
        }
        for reason in ConditionReason::ALL {
            assert_eq!(reason.to_string(), format!("{reason:?}"));
            assert!(reason.as_str().bytes().all(|byte| byte.is_ascii_alphabetic()), "{reason}");
        }
    }
}
