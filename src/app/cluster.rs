//! A Kubernetes API server as the source, and as the place where statuses are written.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use kube::Client;
use tokio::sync::{mpsc, watch};

use super::schema_version;
use crate::compile::inputs::Inputs;
use crate::kubernetes::{self, Kubernetes};
use crate::settings::Settings;
use crate::source::cluster::{self, Sightings, beside};
use crate::source::stored::Identity;
use crate::source::update::Update;
use crate::status::{self, Ears, Published, Status};
use crate::telemetry::metrics::Metrics;

/// What a sidecar reads from which API server.
pub(super) struct BesideOptions {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) watch: beside::Options,
}

/// What to read from which API server.
#[derive(Clone, Debug, Default)]
pub struct ControllerOptions {
    /// The kubeconfig; without one that of the environment, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// What to watch.
    pub watch: cluster::Options,
    /// How the replicas agree on who writes statuses; `None`: this one does not.
    pub lease: Option<LeaseOptions>,
}

/// The Lease by which the replicas agree on who writes statuses.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Its name.
    pub name: String,
    /// Its namespace; without one that of the pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
}

/// Everything that is needed to write statuses.
pub(super) struct StatusParts {
    client: Client,
    options: status::Options,
    ears: Ears,
}

/// What follows the API server.
pub(super) struct Followed {
    pub(super) updates: watch::Receiver<Update>,
    /// Takes what was published; `None` where this process writes no status.
    pub(super) published: Option<watch::Sender<Option<Published>>>,
    pub(super) status: Option<StatusParts>,
}

/// Follows an API server. Returns once every kind that is needed was listed.
pub(super) async fn follow(
    options: &ControllerOptions,
    base: Inputs,
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<Followed> {
    let kubernetes = Kubernetes::new(options.kubeconfig.as_deref(), kubernetes::SILENCE).await?;
    let client = kubernetes.client()?;
    let (mut published, mut status, mut sightings) = (None, None, None);
    if let Some(lease) = &options.lease {
        let options = status_options(lease, settings, &kubernetes, &options.watch.namespaces);
        let (sender, seen) = mpsc::channel(status::WAITING);
        let (publish, listen) = watch::channel(None);
        sightings = Some(Sightings { identity: options.identity.clone(), sender });
        published = Some(publish);
        // With connections of its own: what is written does not wait behind what is read.
        let client = kubernetes.client()?;
        status = Some(StatusParts { client, options, ears: Ears { sightings: seen, published: listen } });
    }
    tokio::spawn(schema_version::watch(client.clone()));
    let updates = cluster::start(&client, &options.watch, base, sightings.as_ref(), metrics).await?;
    Ok(Followed { updates, published, status })
}

/// Follows what concerns the pod of a sidecar. Returns once everything that is needed was listed.
pub(super) async fn follow_beside(options: &BesideOptions, base: Inputs, metrics: &Arc<Metrics>) -> Result<Followed> {
    let kubernetes = Kubernetes::new(options.kubeconfig.as_deref(), kubernetes::LONG_SILENCE).await?;
    let client = kubernetes.shared_client()?;
    let updates = beside::start(&client, &options.watch, base, metrics).await?;
    Ok(Followed { updates, published: None, status: None })
}

fn status_options(
    lease: &LeaseOptions,
    settings: &Settings,
    kubernetes: &Kubernetes,
    namespaces: &[String],
) -> status::Options {
    status::Options {
        lease_namespace: lease.namespace.clone().unwrap_or_else(|| kubernetes.namespace()),
        lease_name: lease.name.clone(),
        replica: replica(),
        identity: Identity {
            controller_name: settings.controller.controller_name.as_str().into(),
            gateway_class_name: settings.controller.gateway_class_name.as_str().into(),
        },
        namespaces: namespaces.to_vec(),
    }
}

/// The name of the pod, or of the machine.
fn replica() -> String {
    let of_pod = std::env::var("POD_NAME").ok();
    let of_machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = of_pod.filter(|name| !name.is_empty()).unwrap_or_else(of_machine);
    match name.trim() {
        "" => "tidegate".to_owned(),
        name => name.to_owned(),
    }
}

impl StatusParts {
    /// Begins to take part in who writes; belongs after the first version is active.
    pub(super) fn start(self, metrics: &Metrics) -> Status {
        status::start(&self.client, self.options, self.ears, metrics.status())
    }
}
