//! What becomes of the endpoints of Services, for the metrics: counted when a page is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

use crate::kinds::endpoint::{Address, Class};
use crate::live::LiveView;
use crate::model::ids::ObjectName;
use crate::model::snapshot::Snapshot;
use crate::source::hold;
use crate::source::update::Update;
use crate::telemetry::metrics::{EndpointsState, ServiceEndpoints};

/// Counts the endpoints of all Services that active rules refer to.
pub(super) fn of_services(
    live: LiveView,
    updates: watch::Receiver<Update>,
) -> impl Fn() -> Vec<ServiceEndpoints> + Send + Sync + 'static {
    move || {
        let inputs = Arc::clone(&updates.borrow().inputs);
        count(live.current().snapshot(), &inputs.objects.slices)
    }
}

type Slices = crate::kinds::Map<crate::kinds::endpoint_slice::EndpointSlice>;

fn count(snapshot: &Snapshot, slices: &Slices) -> Vec<ServiceEndpoints> {
    let services: BTreeSet<&ObjectName> = snapshot.backends.iter().map(|backend| &backend.key.service).collect();
    // A pod may be in several slices, with an address of each family: its best state counts.
    let mut pods: BTreeMap<&ObjectName, HashMap<(&Address, Option<&str>), EndpointsState>> =
        services.into_iter().map(|service| (service, HashMap::new())).collect();
    for (name, slice) in slices {
        let Some(service) = &slice.object.service else { continue };
        let service = ObjectName { namespace: Arc::clone(&name.namespace), name: Arc::clone(service) };
        let Some(pods) = pods.get_mut(&service) else { continue };
        let is_held = hold::is_held(name);
        for endpoint in &slice.object.endpoints {
            let state = match endpoint.class {
                _ if is_held => EndpointsState::Held,
                Class::Ready => EndpointsState::Ready,
                Class::Serving => EndpointsState::Serving,
                Class::Unusable => EndpointsState::NotReady,
            };
            let identity = match endpoint.uid.as_deref() {
                Some(uid) => (&Address::Missing, Some(uid)),
                None => (&endpoint.address, None),
            };
            let known = pods.entry(identity).or_insert(state);
            if (state as usize) < (*known as usize) {
                *known = state;
            }
        }
    }
    let count = |(service, pods): (&ObjectName, HashMap<_, EndpointsState>)| {
        let mut counts = [0; EndpointsState::ALL.len()];
        pods.into_values().for_each(|state| counts[state as usize] += 1);
        (service.to_string().into(), counts)
    };
    pods.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::Sourced;
    use crate::model::backend::{Backend, BackendKey, Protocol};

    #[test]
    fn each_pod_of_a_service_counts_once_by_its_best_state() {
        let slice = |service: &str, endpoints: &[(&str, &str, bool, bool)]| {
            let endpoint = |(address, uid, ready, terminating): &(&str, &str, bool, bool)| {
                let _: SocketAddr = format!("{address}:1").parse().expect("an address");
                json!({ "addresses": [address], "targetRef": { "uid": uid },
                    "conditions": { "ready": ready, "terminating": terminating } })
            };
            let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
            let slice = json!({ "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "endpoints": endpoints });
            Sourced { object: Arc::new(serde_json::from_value(slice).expect("a slice")), origin: None }
        };
        let mut slices = Slices::default();
        let both = [("10.0.0.1", "a", true, false), ("10.0.0.2", "b", false, true), ("10.0.0.3", "c", false, false)];
        slices.insert(ObjectName::new("ns", "one"), slice("web", &both));
        slices.insert(ObjectName::new("ns", "two"), slice("web", &[("10.1.0.1", "a", false, false)]));
        slices.insert(ObjectName::new("ns", "one~0"), slice("web", &[("10.0.0.4", "d", true, false)]));
        slices.insert(ObjectName::new("ns", "other"), slice("unused", &both));
        let backend = |name: &str| Backend {
            key: BackendKey { service: ObjectName::new("ns", name), port: 80, protocol: Protocol::Http },
            endpoints: Arc::default(),
            draining: Arc::default(),
            tls: None,
        };
        let snapshot = Snapshot { backends: [backend("none"), backend("web")].into(), ..Snapshot::default() };
        let found = count(&snapshot, &slices);
        assert_eq!(found, [("ns/none".into(), [0; 4]), ("ns/web".into(), [1, 1, 1, 1])]);
    }
}
