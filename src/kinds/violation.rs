//! What is wrong with a manifest, by field.

use std::fmt;

/// Something in a manifest that an API server refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Field path from the object's root, such as `spec.rules[1].backendRefs[0].port`; keys of maps stand in brackets,
    /// as in `metadata.labels[app.kubernetes.io/name]`. Empty for the whole object.
    pub path: String,
    /// What is there.
    pub found: String,
    /// What may be there.
    pub expected: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

impl Violation {
    /// A violation from its three parts.
    pub fn new(path: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { path: path.into(), found: found.into(), expected: expected.into() }
    }

    /// The same violation of an object that stands at `prefix` inside another one.
    pub fn below(mut self, prefix: &str) -> Self {
        if !prefix.is_empty() {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.path = format!("{prefix}{dot}{}", self.path);
        }
        self
    }
}

/// Refuses a port number out of range.
pub(super) fn check_port(path: String, port: i32, violations: &mut Vec<Violation>) {
    if !(1..=65535).contains(&port) {
        violations.push(Violation::new(path, port.to_string(), "1 to 65535"));
    }
}

/// Refuses text that is none of `names`; no text is no reason.
pub(super) fn check_name(path: String, text: Option<&str>, names: &[&str], violations: &mut Vec<Violation>) {
    if let Some(text) = text.filter(|text| !names.contains(text)) {
        violations.push(Violation::new(path, format!("{text:?}"), names.join(" or ")));
    }
}

/// Transport protocols of ports.
pub(super) const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
