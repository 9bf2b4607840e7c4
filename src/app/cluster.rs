//! A Kubernetes API server as the source, and as the place where statuses are written.

use std::sync::Arc;

use anyhow::Result;
use kube::Client;
use tokio::sync::{mpsc, watch};

use super::{ControllerOptions, LeaseOptions, base, schema_version};
use crate::kubernetes::Kubernetes;
use crate::settings::Settings;
use crate::source::cluster::{self, Sightings};
use crate::source::stored::Identity;
use crate::source::update::Update;
use crate::status::{self, Ears, Published, Status};
use crate::telemetry::metrics::Metrics;

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
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<Followed> {
    let kubernetes = Kubernetes::new(options.kubeconfig.as_deref()).await?;
    let client = kubernetes.client()?;
    let (mut published, mut status, mut sightings) = (None, None, None);
    if let Some(lease) = &options.lease {
        let options = status_options(lease, settings, &kubernetes);
        let (sender, seen) = mpsc::channel(status::WAITING);
        let (publish, listen) = watch::channel(None);
        sightings = Some(Sightings { identity: options.identity.clone(), sender });
        published = Some(publish);
        // With connections of its own: what is written does not wait behind what is read.
        let client = kubernetes.client()?;
        status = Some(StatusParts { client, options, ears: Ears { sightings: seen, published: listen } });
    }
    tokio::spawn(schema_version::watch(client.clone()));
    let updates = cluster::start(&client, &options.watch, base(settings), sightings.as_ref(), metrics).await?;
    Ok(Followed { updates, published, status })
}

fn status_options(lease: &LeaseOptions, settings: &Settings, kubernetes: &Kubernetes) -> status::Options {
    status::Options {
        lease_namespace: lease.namespace.clone().unwrap_or_else(|| kubernetes.namespace()),
        lease_name: lease.name.clone(),
        replica: replica(),
        identity: Identity {
            controller_name: settings.controller.controller_name.as_str().into(),
            gateway_class_name: settings.controller.gateway_class_name.as_str().into(),
        },
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
