//! Why the demo cannot start.

use std::io;
use std::path::PathBuf;

use crate::model::tls::KeyPairError;

/// Why the demo does not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The copy of the example cannot be written.
    #[error("cannot write the example to {}", path.display())]
    Copy {
        /// The temporary directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread of the backends cannot be started.
    #[error("cannot start the backends")]
    Backends(#[source] io::Error),
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// The certificate that was made cannot be used.
    #[error("the certificate that was made cannot be used")]
    KeyPair(#[source] KeyPairError),
}
