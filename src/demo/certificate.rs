//! The certificate that the demo serves HTTPS with: made at the start, signed by itself, never written to a file.

use std::sync::Arc;

use super::error::DemoError;
use crate::kinds::secret::Secret;
use crate::kinds::{Object, Objects};
use crate::model::ids::ObjectName;
use crate::model::tls::KeyPair;

/// Namespace and name of the Secret.
pub(super) const NAME: (&str, &str) = ("tidegate-demo", "localhost");

/// The hosts that it names.
const HOSTS: [&str; 3] = ["localhost", "*.localhost", "127.0.0.1"];

/// Objects that the demo serves beside those of its files: a Secret with a new certificate.
pub(super) fn objects() -> Result<Objects, DemoError> {
    let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).map_err(DemoError::Certificate)?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let pair = KeyPair::from_pem(certificate.as_bytes(), key.as_bytes()).map_err(DemoError::KeyPair)?;
    let secret = Secret::of_pair(Ok(Arc::new(pair)));
    let mut objects = Objects::default();
    objects.insert(ObjectName::new(NAME.0, NAME.1), Object::Secret(Arc::new(secret)), None);
    Ok(objects)
}
