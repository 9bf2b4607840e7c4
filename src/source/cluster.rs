//! Objects from a Kubernetes API server.
//!
//! One task per kind (and namespace, where only some are watched) keeps a watch alive ([`follow`]); one task puts what
//! they tell together ([`index`]) and hands every new state on. An object that cannot be read is left out and reported,
//! and never holds up the others. What was read stays active for as long as the API server cannot be asked.
//!
//! [`start`] returns once every kind was listed, so that the first state is a whole one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::{mpsc, watch};

use crate::compile::inputs::Inputs;
use crate::kinds::KindId;
use crate::source::update::Update;

mod follow;
mod index;
mod object;

use follow::Watch;
use index::Index;

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Silence after which a connection counts as dead: longer than any watch lasts.
const SILENCE: Duration = Duration::from_secs(45);

/// Changes that wait for the index; more make the watches wait.
const WAITING: usize = 1024;

/// What to watch, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The kubeconfig; without one that of the environment, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Only objects in these namespaces; empty: in all.
    pub namespaces: Vec<String>,
    /// Watch core Endpoints too, for Services whose controllers write no EndpointSlices.
    pub legacy_endpoints: bool,
}

/// Why there is no connection to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be read or used.
    #[error("the kubeconfig {path} cannot be used: {error}", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: kube::config::KubeconfigError,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no Kubernetes API server is known: expected --kubeconfig, KUBECONFIG or the service account of a pod: {0}"
    )]
    Unknown(#[from] kube::config::InferConfigError),
    /// The credentials or the address cannot be used.
    #[error("the Kubernetes client cannot be set up: {0}")]
    Client(#[from] kube::Error),
    /// The task that follows the API server has ended.
    #[error("the task that follows the API server has ended")]
    Ended,
}

/// Lists everything, and then follows the changes for as long as the runtime and the receiver live.
///
/// # Errors
/// No API server can be asked at all. One that does not answer is asked again until it does.
pub async fn start(options: &Options, base: Inputs) -> Result<watch::Receiver<Update>, ClusterError> {
    let client = Client::try_from(config(options.kubeconfig.as_deref()).await?)?;
    let watches = watches(options);
    let (sender, changes) = mpsc::channel(WAITING);
    let index = Index::new(base, watches.iter().map(|watch| watch.kind));
    for (number, watch) in watches.into_iter().enumerate() {
        tokio::spawn(watch.follow(client.clone(), number, sender.clone()));
    }
    drop(sender);
    index.run(changes).await.ok_or(ClusterError::Ended)
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClusterError> {
    let mut config = match kubeconfig {
        None => Config::infer().await?,
        Some(path) => {
            let refused = |error| ClusterError::Kubeconfig { path: path.to_owned(), error };
            let file = Kubeconfig::read_from(path).map_err(refused)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // The watches try again by themselves; the client's own attempts could go on for many minutes without a word.
    config.default_retry = false;
    Ok(config)
}

/// One watch for each kind, or for each kind in each namespace.
fn watches(options: &Options) -> Vec<Watch> {
    let kinds = KindId::ALL.iter().filter(|kind| **kind != KindId::Endpoints || options.legacy_endpoints);
    let namespaces: BTreeSet<&str> = options.namespaces.iter().map(String::as_str).collect();
    let mut watches = Vec::new();
    for kind in kinds {
        if namespaces.is_empty() {
            watches.push(Watch { kind: *kind, namespace: None });
        }
        watches.extend(namespaces.iter().map(|name| Watch { kind: *kind, namespace: Some((*name).to_owned()) }));
    }
    watches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_watched_once_or_once_in_each_namespace() {
        let all = watches(&Options::default());
        assert!(all.iter().all(|watch| watch.namespace.is_none() && watch.kind != KindId::Endpoints));
        assert_eq!(all.len(), KindId::ALL.len() - 1);
        let namespaces = ["b", "a", "b"].map(str::to_owned).to_vec();
        let some = watches(&Options { namespaces, legacy_endpoints: true, ..Options::default() });
        assert_eq!(some.len(), 2 * KindId::ALL.len());
        assert!(some.iter().all(|watch| watch.namespace.is_some()));
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_named() {
        let missing = PathBuf::from("/nonexistent/kubeconfig");
        let options = Options { kubeconfig: Some(missing), ..Options::default() };
        let error = start(&options, Inputs::default()).await.expect_err("there is no file");
        assert!(error.to_string().starts_with("the kubeconfig /nonexistent/kubeconfig cannot be used: "), "{error}");
    }
}
