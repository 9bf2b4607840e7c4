//! Set-up of the process log: to standard error, as text or JSON, filtered by level or `tracing` directives. Panics are lines
//! of it, too.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is neither a level nor directives.
    #[error("log level {found:?} is neither error, warn, info, debug or trace nor a list of tracing directives")]
    Filter {
        /// The text.
        found: String,
        /// Why it is none.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A log is set up already.
    #[error("the log is set up already")]
    Init(#[from] TryInitError),
}

/// Sets up the log for the rest of the process.
///
/// # Errors
/// When `filter` cannot be read, or a log is set up already.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    let directives = EnvFilter::try_new(filter).map_err(|source| Error::Filter { found: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(directives).with_target(false);
    match format {
        Format::Text => builder.finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    super::panics::log_them();
    Ok(())
}
