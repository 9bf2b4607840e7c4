//! Set-up of the process log: to standard error, as text or JSON, filtered by level or `tracing` directives. Panics are lines
//! of it, too.

use tracing::Level;
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

/// The directives for a filter. A level up to `info` leaves out what the Kubernetes client says of every request that
/// fails, as often as it is tried again: whoever asked says once what is the matter. Directives, and levels for those who
/// look for faults, are taken as they are.
fn directives(filter: &str) -> String {
    match filter.parse() {
        Ok(Level::ERROR | Level::WARN | Level::INFO) => {
            format!("{filter},kube_client::client=off,kube_client::client::tls={filter}")
        }
        Ok(_) | Err(_) => filter.to_owned(),
    }
}

/// Sets up the log for the rest of the process.
///
/// # Errors
/// When `filter` cannot be read, or a log is set up already.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    let directives =
        EnvFilter::try_new(directives(filter)).map_err(|source| Error::Filter { found: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(directives).with_target(false);
    match format {
        Format::Text => builder.finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    super::panics::log_them();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_level_leaves_out_what_only_repeats() {
        for (filter, expected) in [
            ("info", "info,kube_client::client=off,kube_client::client::tls=info"),
            ("debug", "debug"),
            ("info,kube_client=warn", "info,kube_client=warn"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(directives(filter), expected);
        }
        for level in ["error", "WARN", "info"] {
            assert!(EnvFilter::try_new(directives(level)).is_ok(), "{level}");
        }
    }
}
