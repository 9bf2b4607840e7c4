//! Why the demo cannot start.

use std::io;
use std::path::PathBuf;

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
}
