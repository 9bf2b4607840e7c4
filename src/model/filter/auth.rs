//! Filters that ask who a client is, and where requests carry credentials.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::model::credentials::{ApiKeys, PasswordFile};

/// Where a request carries a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialPlace {
    /// A header, by lower-case name; `Bearer ` in front of the credential does not belong to it (RFC 6750 §2.1).
    Header(HeaderName),
    /// A cookie by name, case-sensitive.
    Cookie(Arc<str>),
    /// A query parameter by name, case-sensitive.
    QueryParam(Arc<str>),
}

/// Admits clients that show a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The keys; `None` where they cannot be had, so that nobody is let in.
    pub keys: Option<Arc<ApiKeys>>,
    /// Where the key is looked for, first place first; at least one.
    pub from: Box<[CredentialPlace]>,
    /// The key goes on to the backend.
    pub forward: bool,
    /// The field in which the backend is told the client's name.
    pub client_header: Option<HeaderName>,
    /// The value of `www-authenticate` in a refusal.
    pub challenge: HeaderValue,
}

/// Admits users by name and password (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The users; `None` where they cannot be had, so that nobody is let in.
    pub users: Option<Arc<PasswordFile>>,
    /// The name and the password go on to the backend.
    pub forward: bool,
    /// The field in which the backend is told the user's name.
    pub user_header: Option<HeaderName>,
    /// The value of `www-authenticate` in a refusal.
    pub challenge: HeaderValue,
}
