//! The zone of the node that the process is on, for rules that prefer near endpoints, where nothing else has said it.
//!
//! Kubernetes puts the zone on pods from 1.35 on; before that a pod knows only the name of its node. Nobody waits for the
//! answer: until it is there, endpoints are used wherever they are.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::index::{Change, Event};
use crate::kubernetes::with_causes;

/// The label of nodes that has the zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How often it is asked for again while these credentials may not read nodes.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(600);

/// Asks for the node until the API server answers, tells the index the zone, and ends.
pub(super) async fn find(client: Client, node: Arc<str>, changes: mpsc::Sender<Change>, pause: Duration) {
    let nodes: Api<Node> = Api::all(client);
    let mut was_told = false;
    loop {
        let pause = match nodes.get_metadata(&node).await {
            Ok(found) => {
                let Some(zone) = found.metadata.labels.and_then(|mut labels| labels.remove(ZONE)) else {
                    tracing::info!(
                        "the node {node} has no zone: found no label {ZONE} on it; endpoints are used in whatever zone they are"
                    );
                    return;
                };
                tracing::info!("this process is in the zone {zone}, as the label {ZONE} of the node {node} says");
                // Should nobody listen, the process is about to end.
                let _ = changes.send(Change { watch: 0, event: Event::OwnZone(zone.into()) }).await;
                return;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::warn!(
                    "the node {node} is not known to the API server; expected --node or NODE_NAME to name the node of this \
                     process, or --zone or NODE_ZONE its zone; endpoints are used in whatever zone they are"
                );
                return;
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                if !std::mem::replace(&mut was_told, true) {
                    tracing::warn!(
                        "the node {node} may not be read: {}; expected a role with get of nodes, or the zone of this process \
                         in --zone or NODE_ZONE; endpoints are used in whatever zone they are",
                        status.message
                    );
                }
                FORBIDDEN_PAUSE
            }
            // That the API server does not answer is said by those who need it more.
            Err(error) => {
                tracing::debug!("the node {node} cannot be read: {}", with_causes(&error));
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}
