//! Certificates out of a real API server: rights that are missing, given, and what becomes of a Secret that changes.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};

use crate::authorities::give_right;
use crate::cluster::{Cluster, Namespace, REFERENCE_GRANTS, wait_for};
use crate::gateway::{Gateway, Rights};
use crate::helm;

struct Pair {
    der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

fn pair(host: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    Pair { der: made.cert.der().clone(), certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

fn secret(name: &str, certificate: &str, key: &str) -> String {
    let data = json!({ "tls.crt": certificate, "tls.key": key });
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "stringData": data })
        .to_string()
}

/// The certificate that a client is shown who trusts these.
fn shown(gateway: &Gateway, host: &str, trusted: &[&Pair]) -> io::Result<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|pair| roots.add(pair.der.clone()).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(Arc::new(config.with_no_client_auth()), name).map_err(io::Error::other)?;
    let mut socket = TcpStream::connect(gateway.https)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(session.peer_certificates().unwrap()[0].clone().into_owned())
}

fn wait_until_shown(gateway: &Gateway, host: &str, pair: &Pair) {
    wait_for("the certificate", || match shown(gateway, host, &[pair]) {
        Ok(shown) if shown == pair.der => Ok(()),
        other => Err(format!("{other:?}: {}", gateway.log())),
    });
}

/// The message of the condition ResolvedRefs, once it has this reason.
fn wait_for_refs(namespace: &Namespace<'_>, reason: &str) -> String {
    wait_for(&format!("ResolvedRefs with {reason}"), || {
        let route: Value = serde_json::from_str(&namespace.kubectl(&["get", "gwr/shop", "-o", "json"])).unwrap();
        let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
        let conditions = parents.iter().flat_map(|parent| parent["conditions"].as_array().cloned().unwrap_or_default());
        let mut found = conditions.filter(|one| one["type"] == "ResolvedRefs" && one["reason"] == reason);
        found.next().map(|one| one["message"].as_str().unwrap().to_owned()).ok_or(route["status"].to_string())
    })
}

#[test]
fn a_namespace_opts_in_and_its_certificate_is_followed() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", shop.name);
    let (first, second) = (pair(&host), pair(&host));
    shop.apply(&secret("tls", &first.certificate, &first.key));
    let answer = json!([{ "type": "DirectResponse", "directResponse": { "statusCode": 200, "body": "shop" } }]);
    let spec = json!({
        "gatewayClassName": edge.name, "hostnames": [host], "rules": [{ "filters": answer }],
        "tls": { "certificateRefs": [{ "name": "tls" }], "redirectInsecure": false },
    });
    let metadata = json!({ "name": "shop" });
    let route =
        json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": metadata, "spec": spec });
    shop.apply(&route.to_string());
    // It knows no ClusterRole, as where the chart makes none.
    let flags = [format!("--gateway-class={}", edge.name), format!("--controller-name=tidegate.dev/{}", edge.name)];
    let gateway = Gateway::start_ready(cluster, &rights.kubeconfig, &flags.each_ref().map(String::as_str));
    // Without the right the route serves, and its status has the line that gives it.
    assert_eq!(gateway.wait_for(&host, 200), "shop");
    let message = wait_for_refs(&shop, "CertificateNotFound");
    assert!(message.contains("kubectl create role tidegate-certificates "), "{message}");
    give_right(cluster, &message);
    wait_until_shown(&gateway, &host, &first);
    wait_for_refs(&shop, "ResolvedRefs");
    // A new certificate.
    shop.apply(&secret("tls", &second.certificate, &second.key));
    let begun = Instant::now();
    wait_until_shown(&gateway, &host, &second);
    println!("shown {:?} after kubectl had ended", begun.elapsed());
    // A key that does not fit keeps the one before.
    shop.apply(&secret("tls", &second.certificate, &first.key));
    let message = wait_for_refs(&shop, "InvalidCertificate");
    assert!(message.contains("the private key does not belong to the certificate"), "{message}");
    assert_eq!(shown(&gateway, &host, &[&second]).unwrap(), second.der);
    gateway.wait_for_metric(&format!("tidegate_certificate_valid{{secret=\"{}/tls\"}} 0", shop.name));
    // A Secret that is gone has no certificate.
    shop.kubectl(&["delete", "secret", "tls"]);
    wait_for_refs(&shop, "CertificateNotFound");
    assert!(shown(&gateway, &host, &[&first, &second]).is_err());
    let marker = second.key.lines().nth(1).unwrap();
    assert!(!gateway.log().contains(&marker[..20]), "{}", gateway.log());
}
