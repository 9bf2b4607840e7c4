//! `tidegate demo`: the example's files, small backends for the endpoints that they name, and what to try.
//!
//! The gateway itself is the one of `standalone`; nothing here is on its path. Backends run in a thread of their own and
//! follow the files: an endpoint that is added gets a backend at once.

mod backend;
mod certificate;
mod chat;
mod error;
mod guide;

pub use backend::Backends;
pub use error::DemoError;
pub use guide::Guide;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::app;
use crate::cli;

/// The example, as it stands in the repository.
const EMBEDDED: &[(&str, &str)] = &[
    ("chat.yaml", include_str!("../manifests/demo/chat.yaml")),
    ("empty.yaml", include_str!("../manifests/demo/empty.yaml")),
    ("flaky.yaml", include_str!("../manifests/demo/flaky.yaml")),
    ("maps.yaml", include_str!("../manifests/demo/maps.yaml")),
    ("portal.yaml", include_str!("../manifests/demo/portal.yaml")),
    ("shop.yaml", include_str!("../manifests/demo/shop.yaml")),
];

/// Where the example stands in a checkout.
const IN_CHECKOUT: &str = "manifests/demo";

/// The directory that the demo serves from.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    /// A copy of the embedded example, removed in the end.
    temporary: bool,
}

impl Files {
    /// The directory that is asked for, else the checkout's example below the working directory, else a copy of the
    /// embedded one in a new temporary directory.
    ///
    /// # Errors
    ///
    /// When the copy cannot be written.
    pub fn choose(asked: Option<&Path>) -> Result<Self, DemoError> {
        Self::choose_in(asked, Path::new("."))
    }

    fn choose_in(asked: Option<&Path>, working: &Path) -> Result<Self, DemoError> {
        if let Some(dir) = asked {
            return Ok(Self { dir: dir.to_owned(), temporary: false });
        }
        let checkout = working.join(IN_CHECKOUT);
        if checkout.is_dir() {
            return Ok(Self { dir: checkout, temporary: false });
        }
        let dir = std::env::temp_dir().join(format!("tidegate-demo-{:016x}", fastrand::u64(..)));
        let failed = |source| DemoError::Copy { path: dir.clone(), source };
        // Fails when somebody else has made it: what stands there would be served.
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        let files = Self { dir: dir.clone(), temporary: true };
        for (name, text) in EMBEDDED {
            fs::write(dir.join(name), text).map_err(failed)?;
        }
        Ok(files)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is left to the system's own cleaning of temporary files.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs the demo until a signal ends it: the ready line on standard output, the guide on standard error.
///
/// # Errors
///
/// When settings are refused, something cannot be bound, or the files cannot be read.
pub fn run(demo: &cli::Demo) -> anyhow::Result<()> {
    let mut settings = demo.settings()?;
    let files = Files::choose(demo.config.as_deref())?;
    for listener in settings.listeners.values_mut() {
        if let Some(tls) = &mut listener.tls {
            let (namespace, name) = certificate::NAME;
            tls.default_certificate.get_or_insert_with(|| (namespace.to_owned(), name.to_owned()));
        }
    }
    let running = app::start_with(settings, files.dir(), certificate::objects()?)?;
    let _backends = Backends::start(running.updates.clone())?;
    running.print_ready()?;
    let inputs = Arc::clone(&running.updates.borrow().inputs);
    let http = running.ready.listeners.get("http").or_else(|| running.ready.listeners.values().next());
    let http = *http.context("no listener is bound")?;
    let https = running.ready.listeners.get("https").copied();
    let guide = Guide { files: files.dir(), inputs: &inputs, http, https, admin: running.ready.admin };
    // The demo serves also where nobody reads what it says.
    let _ = write!(io::stderr().lock(), "{guide}");
    // The demo belongs to a terminal and goes with it.
    running.wait(app::Hangup::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_asked_for_else_of_the_checkout_else_a_copy() {
        let working = tempfile::tempdir().expect("a folder");
        let asked = Files::choose_in(Some(Path::new("/asked")), working.path()).expect("nothing is written");
        assert_eq!(asked.dir(), Path::new("/asked"));
        let copy = Files::choose_in(None, working.path()).expect("temporary files can be written");
        let dir = copy.dir().to_owned();
        for (name, text) in EMBEDDED {
            assert_eq!(fs::read_to_string(dir.join(name)).expect("a copy"), *text);
        }
        drop(copy);
        assert!(!dir.exists(), "the copy is removed");
        fs::create_dir_all(working.path().join(IN_CHECKOUT)).expect("a folder");
        let checkout = Files::choose_in(None, working.path()).expect("nothing is written");
        assert_eq!(checkout.dir(), working.path().join(IN_CHECKOUT));
        drop(checkout);
        assert!(working.path().join(IN_CHECKOUT).exists(), "only copies are removed");
    }

    #[test]
    fn every_file_of_the_example_is_embedded() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(IN_CHECKOUT);
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("the example")
            .map(|entry| entry.expect("a file").file_name().into_string().expect("a plain name"))
            .collect();
        names.sort();
        assert_eq!(names, EMBEDDED.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
    }
}
