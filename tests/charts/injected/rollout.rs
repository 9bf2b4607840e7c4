//! The way to a sidecar and back, under load.

use serde_json::Value;

use super::{address, cart, injected, metrics, place, pods, restored, rolled_out, shop};
use crate::cluster::{Cluster, wait_for};
use crate::load::{Load, Request};

#[test]
fn pods_with_and_without_a_sidecar_serve_side_by_side() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let namespace = shop(cluster);
    let plain = cart(&namespace, &["payments"]);
    namespace.apply(&plain);
    rolled_out(&namespace, "cart");
    let request = Request { address: address(&namespace, "cart"), host: "cart".to_owned() };
    crate::install::wait_for_answer(&request, 200);
    let load = Load::start(&[request]);
    let with_sidecar = injected(&plain, &namespace);
    namespace.apply(&with_sidecar);
    rolled_out(&namespace, "cart");
    // Both ways lead through the sidecar, by names that did not change.
    let has_sidecar = |pod: &Value| !pod["spec"]["initContainers"].is_null();
    let alone = |with_sidecar: bool| {
        wait_for("pods of one kind alone", || {
            let pods = pods(&namespace, "app=cart");
            let is_alone = pods.len() == 2 && pods.iter().all(|pod| has_sidecar(pod) == with_sidecar);
            if is_alone { Ok(pods) } else { Err(format!("{} pods", pods.len())) }
        })
    };
    for pod in alone(true) {
        wait_for("requests on both sides", || {
            let metrics = metrics(place(&pod).1)?;
            let counted = |listener: &str| {
                metrics.lines().any(|line| line.starts_with("tidegate_requests_total{") && line.contains(listener))
            };
            if counted("/app:http\"") && counted("/payments:80\"") { Ok(()) } else { Err(metrics) }
        });
    }
    let without = restored(&with_sidecar, &namespace);
    assert_eq!(without, plain);
    namespace.apply(&without);
    rolled_out(&namespace, "cart");
    alone(false);
    let (answered, failures) = load.end();
    assert!(failures.is_empty(), "{} of {answered} failed: {:#?}", failures.len(), &failures[..failures.len().min(20)]);
    assert!(answered > 100, "only {answered} requests");
}
