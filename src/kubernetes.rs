//! The connection to a Kubernetes API server, for whoever reads from it or writes to it: address, credentials, limits of
//! time, and what it says when it refuses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use rustls::NamedGroup;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tower::layer::layer_fn;

mod ahead;
mod counted;
mod shared;

pub use counted::ByteCount;

use counted::Counting;

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Silence after which a connection counts as dead: longer than the watches of a controller last.
pub const SILENCE: Duration = Duration::from_secs(45);

/// The same where watches last for minutes: an API server sends a bookmark about every minute, whatever happens.
pub const LONG_SILENCE: Duration = Duration::from_secs(90);

/// Variable with the namespace of the pod that the process runs in.
const POD_NAMESPACE: &str = "POD_NAMESPACE";

/// Where an API server is, and as whom to talk to it.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    config: Config,
}

/// Why there is no connection to an API server.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig cannot be read or used.
    #[error("the kubeconfig {path} cannot be used: {error}", path = path.display(), error = first_line(error))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: kube::config::KubeconfigError,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no Kubernetes API server is known: expected --kubeconfig, KUBECONFIG or the service account of a pod: {error}",
        error = first_line(_0)
    )]
    Unknown(#[from] kube::config::InferConfigError),
    /// The credentials or the address cannot be used.
    #[error("the Kubernetes client cannot be set up: {0}")]
    Client(#[from] kube::Error),
}

/// What an error of the client says, with all that caused it: its own texts leave out what the network said.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        cause = error.source();
    }
    text
}

/// When the API server wants to be asked again, as far as it says.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// What an error says, without the excerpt of the file that follows in further lines.
fn first_line(error: &dyn std::error::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Cryptography with the key exchange first that quantum computers cannot break. API servers want it of everybody who knows it,
/// and have those who begin with another one begin again (Go does so since 1.24): that is a round trip, and CPU time on both
/// sides.
fn post_quantum_first() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider
}

impl Kubernetes {
    /// Finds out which API server to talk to; asks it nothing yet. Without a file that of the environment, or the
    /// service account of the pod. A connection that is silent for `silence` while something is awaited counts as dead.
    ///
    /// # Errors
    /// There is no usable kubeconfig and no service account.
    pub async fn new(kubeconfig: Option<&Path>, silence: Duration) -> Result<Self, KubernetesError> {
        let mut config = match kubeconfig {
            None => Config::infer().await?,
            Some(path) => {
                let refused = |error| KubernetesError::Kubeconfig { path: path.to_owned(), error };
                let file = Kubeconfig::read_from(path).map_err(refused)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)?
            }
        };
        // kube's clients take that of the process. An error says that it was put before, by another one.
        let _ = post_quantum_first().install_default();
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(silence);
        // All callers try again by themselves; the client's own attempts could go on for many minutes without a word.
        config.default_retry = false;
        Ok(Self { config })
    }

    /// A client with connections of its own, which counts the bytes of answers for requests with a [`ByteCount`].
    ///
    /// # Errors
    /// The credentials or the address cannot be used.
    pub fn client(&self) -> Result<Client, KubernetesError> {
        Ok(ClientBuilder::try_from(self.config.clone())?.with_layer(&layer_fn(Counting::new)).build())
    }

    /// A client whose requests share one connection, where the API server speaks HTTP/2; it counts as the other one does. For
    /// those of whom there are thousands.
    ///
    /// # Errors
    /// The credentials or the address cannot be used.
    pub fn shared_client(&self) -> Result<Client, KubernetesError> {
        if self.config.proxy_url.is_some() {
            return self.client();
        }
        Ok(shared::client(&self.config)?)
    }

    /// The namespace that the process belongs to: that of its pod, or the one of the kubeconfig's context.
    #[must_use]
    pub fn namespace(&self) -> String {
        let of_pod = std::env::var(POD_NAMESPACE).ok().filter(|name| !name.is_empty());
        of_pod.unwrap_or_else(|| self.config.default_namespace.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_exchange_that_api_servers_want_comes_first_and_none_is_lost() {
        let names = |provider: CryptoProvider| provider.kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>();
        let (ours, usual) = (names(post_quantum_first()), names(aws_lc_rs::default_provider()));
        assert_eq!(ours[0], NamedGroup::X25519MLKEM768);
        assert!(ours.len() == usual.len() && usual.iter().all(|group| ours.contains(group)), "{ours:?}");
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_named() {
        let error =
            Kubernetes::new(Some(Path::new("/nonexistent/kubeconfig")), SILENCE).await.expect_err("there is no file");
        assert!(error.to_string().starts_with("the kubeconfig /nonexistent/kubeconfig cannot be used: "), "{error}");
    }
}
