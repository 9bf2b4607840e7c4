//! Whether the schema of routes in the cluster is as new as this program.
//!
//! An API server drops fields that its CustomResourceDefinition does not have, without a word to whoever applied them. So the
//! log says when it is older than the program; nothing else depends on it.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};

use crate::api::crd::BUNDLE_VERSION;

/// The definition of our kind.
const NAME: &str = "gatewayroutes.tidegate.dev";

/// How often the version is looked at.
const PERIOD: Duration = Duration::from_mins(10);

/// When it is looked at again after it could not be.
const SOON: Duration = Duration::from_secs(30);

/// How the version of the schema stands to that of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// As new or newer.
    Fits,
    /// Older, or of no version that is known.
    Older(String),
    /// These credentials may not look at it.
    Forbidden(String),
    /// The definition is not there, or the API server does not answer, of which others tell.
    Unknown,
}

/// Looks at the version now and then, for as long as the runtime lives, and logs what has changed.
pub(super) async fn watch(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let mut told = Verdict::Fits;
    loop {
        let verdict = match definitions.get_metadata(NAME).await {
            Ok(found) => {
                let annotations = found.metadata.annotations.unwrap_or_default();
                judge(annotations.get(BUNDLE_VERSION).map(String::as_str), env!("CARGO_PKG_VERSION"))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                Verdict::Forbidden(status.message.clone())
            }
            Err(_) => Verdict::Unknown,
        };
        let pause = if verdict == Verdict::Unknown { SOON } else { PERIOD };
        if verdict != Verdict::Unknown && verdict != told {
            tell(&verdict);
            told = verdict;
        }
        tokio::time::sleep(pause).await;
    }
}

fn judge(found: Option<&str>, own: &str) -> Verdict {
    let Some(found) = found else { return Verdict::Older("without a version".to_owned()) };
    match (numbers(found), numbers(own)) {
        (Some(version), Some(own)) if version >= own => Verdict::Fits,
        (Some(_) | None, _) => Verdict::Older(format!("of version {found}")),
    }
}

/// The three numbers of a version such as `v1.2.3` or `1.2.3-rc.1`.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let plain = version.split(['-', '+']).next()?;
    let numbers: Vec<u64> = plain.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

fn tell(verdict: &Verdict) {
    let own = env!("CARGO_PKG_VERSION");
    match verdict {
        Verdict::Fits => tracing::info!("the CustomResourceDefinition {NAME} is as new as this program"),
        Verdict::Older(found) => tracing::warn!(
            "the CustomResourceDefinition {NAME} is {found}; expected v{own} or newer, as `tidegate crd` prints it; fields of \
             routes that it does not have are dropped by the API server, everything else is served"
        ),
        Verdict::Forbidden(message) => tracing::info!(
            "the CustomResourceDefinition {NAME} may not be read: {message}; expected a role with get of it; whether it is as \
             new as this program is unknown, and nothing else needs it"
        ),
        Verdict::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_older_by_numbers_and_not_by_letters() {
        let older = |text: &str| Verdict::Older(format!("of version {text}"));
        let cases = [
            ("v1.2.3", "1.2.3", Verdict::Fits),
            ("v1.10.0", "1.9.9", Verdict::Fits),
            ("2.0.0-rc.1", "1.9.9", Verdict::Fits),
            ("v1.9.0", "1.10.0", older("v1.9.0")),
            ("v0.0.9", "0.1.0", older("v0.0.9")),
            ("v1.2", "1.2.0", older("v1.2")),
            ("new", "0.1.0", older("new")),
        ];
        for (found, own, expected) in cases {
            assert_eq!(judge(Some(found), own), expected, "{found} {own}");
        }
        assert_eq!(judge(None, "0.1.0"), Verdict::Older("without a version".to_owned()));
        let own = env!("CARGO_PKG_VERSION");
        let crd = crate::api::crd::crd().metadata.annotations.expect("annotations");
        assert_eq!(judge(crd.get(BUNDLE_VERSION).map(String::as_str), own), Verdict::Fits);
    }
}
