//! A rule with all filters whose objects come from a real API server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::authorities::{gateway, give_right, wait_for_refs};
use crate::cluster::{Cluster, wait_for};
use crate::gateway::Rights;
use crate::helm;
use crate::support::all_filters::{Behind, Served, check_edits, check_order, route};

#[test]
fn all_filters_work_together_and_edits_under_load_spoil_no_answer() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", shop.name);
    // Of the addresses that the clusters leave to gateways, and that all are local here.
    let address = IpAddr::V4(Ipv4Addr::new(10, 245, fastrand::u8(..128), fastrand::u8(1..255)));
    let behind = Behind::start(address);
    behind.objects(address).iter().for_each(|(_, text)| drop(shop.apply(text)));
    shop.apply(&route(&edge.name, &host, 0));
    let gateway = gateway(cluster, &edge, &rights);
    give_right(cluster, &wait_for_refs(&shop, "r", "FilterNotFound"));
    wait_for_refs(&shop, "r", "ResolvedRefs");
    let metrics = || gateway.metrics();
    let served = Served { behind: &behind, http: gateway.http, host: &host, metrics: &metrics };
    wait_for("a rule that asks for a token", || match served.connections()[0].post("/", &[], "").status {
        401 => Ok(()),
        status => Err(format!("{status}: {}", gateway.log())),
    });
    check_order(&served);
    let edit = |version| drop(shop.apply(&route(&edge.name, &host, version)));
    check_edits(&served, &format!("{}/r", shop.name), (10, Duration::from_millis(300)), edit);
}
