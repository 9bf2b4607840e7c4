//! ConfigMaps and BackendTLSPolicies out of a real API server: rights that are missing, given, and what becomes of objects
//! that change or go.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::cluster::{BACKEND_TLS_POLICIES, Cluster, Namespace, REFERENCE_GRANTS, wait_for};
use crate::gateway::{Gateway, Rights};
use crate::helm;

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
}

struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

impl Authority {
    fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: rcgen::Issuer::new(parameters, key), certificate }
    }

    fn issue(&self, name: &str) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    /// A ConfigMap with this authority.
    fn config_map(&self, name: &str) -> String {
        let (metadata, data) = (json!({ "name": name }), json!({ "ca.crt": self.certificate.pem() }));
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }).to_string()
    }
}

/// The status of an answer over TLS; an error where the handshake, or what comes after it, is refused.
fn ask(gateway: SocketAddr, host: &str, servers: &Authority, own: Option<&Pair>) -> io::Result<String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(servers.roots());
    let config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain(), own.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let socket = TcpStream::connect(gateway)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = StreamOwned::new(session, socket);
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(String::from_utf8_lossy(&status[9..]).into_owned())
}

/// A pod that speaks TLS and answers every request with 200.
fn pod(pair: &Pair) -> SocketAddr {
    // Of the addresses that the clusters leave to gateways, and that all are local here.
    let listener = TcpListener::bind((format!("10.245.{}.{}", fastrand::u8(..128), fastrand::u8(1..255)), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(pair.chain(), pair.key()).unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(session, socket);
                let mut head = Vec::new();
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\npod");
                    }
                }
            });
        }
    });
    address
}

pub fn route(name: &str, spec: Value) -> String {
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": metadata, "spec": spec })
        .to_string()
}

/// The message of the condition ResolvedRefs of a route, once it has this reason.
pub fn wait_for_refs(namespace: &Namespace<'_>, route: &str, reason: &str) -> String {
    wait_for(&format!("ResolvedRefs of {route} with {reason}"), || {
        let object = namespace.kubectl(&["get", &format!("gwr/{route}"), "-o", "json"]);
        let object: Value = serde_json::from_str(&object).unwrap();
        let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        let conditions = parents.iter().flat_map(|parent| parent["conditions"].as_array().cloned().unwrap_or_default());
        let mut found = conditions.filter(|one| one["type"] == "ResolvedRefs" && one["reason"] == reason);
        found.next().map(|one| one["message"].as_str().unwrap().to_owned()).ok_or(object["status"].to_string())
    })
}

/// Waits until our entry in the status of a policy says this of Accepted and ResolvedRefs; the entry.
fn wait_for_policy(namespace: &Namespace<'_>, class: &str, accepted: &str, resolved: &str) -> Value {
    wait_for(&format!("a policy that is {accepted}, {resolved}"), || {
        let object = namespace.kubectl(&["get", "backendtlspolicy/bank", "-o", "json"]);
        let object: Value = serde_json::from_str(&object).unwrap();
        let entries = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
        let own = entries.into_iter().find(|entry| entry["controllerName"] == format!("tidegate.dev/{class}"));
        let own = own.ok_or_else(|| object["status"].to_string())?;
        let reasons = [0, 1].map(|at| own["conditions"][at]["reason"].clone());
        let generation = [0, 1].map(|at| own["conditions"][at]["observedGeneration"].clone());
        let is_present = generation.iter().all(|one| *one == object["metadata"]["generation"]);
        if reasons == [accepted, resolved] && is_present { Ok(own) } else { Err(object["status"].to_string()) }
    })
}

/// Runs the line that a condition tells, which may be several commands.
pub fn give_right(cluster: &Cluster, message: &str) {
    let (_, line) = message.split_once("allows that with: ").expect(message);
    for command in line.split(", expected ").next().unwrap().split(" && ") {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words[0], "kubectl", "{message}");
        cluster.kubectl(&words[1..]);
    }
}

/// A gateway of a class of its own.
pub fn gateway(cluster: &Cluster, edge: &Namespace<'_>, rights: &Rights<'_>) -> Gateway {
    let role = rights.objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned());
    let role = role.into_iter().find(|name| name.ends_with("-certificates")).unwrap();
    let flags = [
        format!("--gateway-class={}", edge.name),
        format!("--controller-name=tidegate.dev/{}", edge.name),
        format!("--certificate-role={role}"),
    ];
    Gateway::start_ready(cluster, &rights.kubeconfig, &flags.each_ref().map(String::as_str))
}

#[test]
fn authorities_of_clients_come_from_config_maps_of_namespaces_that_opt_in() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", shop.name);
    let [servers, first, second] = [0; 3].map(|_| Authority::new());
    let (own, of_second) = (first.issue("client.test"), second.issue("client.test"));
    let pair = servers.issue(&host);
    let data = json!({ "tls.crt": pair.certificate, "tls.key": pair.key });
    let metadata = json!({ "name": "tls" });
    shop.apply(
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls",
            "stringData": data })
        .to_string(),
    );
    shop.apply(&first.config_map("clients"));
    let answer = json!([{ "type": "DirectResponse", "directResponse": { "statusCode": 200, "body": "shop" } }]);
    let tls = json!({ "certificateRefs": [{ "name": "tls" }],
        "clientValidation": { "caCertificateRefs": [{ "name": "clients" }] } });
    let spec =
        json!({ "gatewayClassName": edge.name, "hostnames": [host], "rules": [{ "filters": answer }], "tls": tls });
    shop.apply(&route("shop", spec));
    let gateway = gateway(cluster, &edge, &rights);
    let answers = |own: &Pair, is_let_in: bool| {
        wait_for(&format!("a client that is let in: {is_let_in}"), || {
            match ask(gateway.https, &host, &servers, Some(own)) {
                Ok(status) if status == "200" && is_let_in => Ok(()),
                Err(_) if !is_let_in => Ok(()),
                other => Err(format!("{other:?}: {}", gateway.log())),
            }
        });
    };
    // One binding is the right for both kinds.
    let message = wait_for_refs(&shop, "shop", "CertificateNotFound");
    assert!(message.contains(&format!("ConfigMap {}/clients: tidegate may not read it", shop.name)), "{message}");
    give_right(cluster, &message);
    answers(&own, true);
    wait_for_refs(&shop, "shop", "ResolvedRefs");
    assert!(ask(gateway.https, &host, &servers, None).is_err(), "without a certificate");
    assert!(ask(gateway.https, &host, &servers, Some(&of_second)).is_err(), "of another authority");
    // Another authority.
    shop.apply(&second.config_map("clients"));
    answers(&of_second, true);
    answers(&own, false);
    // Without one, nobody is let in.
    shop.kubectl(&["delete", "configmap", "clients"]);
    answers(&of_second, false);
    let message = wait_for_refs(&shop, "shop", "CertificateNotFound");
    assert!(message.contains(&format!("no ConfigMap {}/clients", shop.name)), "{message}");
}

#[test]
fn policies_of_tls_to_pods_come_and_go_with_their_authorities() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    cluster.install_kind(BACKEND_TLS_POLICIES);
    let (edge, bank) = (cluster.namespace("edge"), cluster.namespace("bank"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", bank.name);
    let [good, other] = [0; 2].map(|_| Authority::new());
    let pod = pod(&good.issue("bank.internal"));
    bank.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: bank}}
spec: {{ports: [{{name: https, port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: bank, labels: {{kubernetes.io/service-name: bank}}}}
addressType: IPv4
ports: [{{name: https, port: {}}}]
endpoints: [{{addresses: ["{}"]}}]
"#,
        pod.port(),
        pod.ip()
    ));
    let reference = json!({ "name": "bank", "port": 443, "protocol": "HTTPS" });
    let spec = json!({ "gatewayClassName": edge.name, "hostnames": [host],
        "rules": [{ "backendRefs": [reference] }] });
    bank.apply(&route("bank", spec));
    let policy = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": { "name": "bank" },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": "bank" }],
            "validation": { "hostname": "bank.internal",
                "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "bank-ca" }] },
        },
    });
    let gateway = gateway(cluster, &edge, &rights);
    // Nobody says whom to trust.
    gateway.wait_for(&host, 500);
    wait_for_refs(&bank, "bank", "UnsupportedProtocol");
    bank.apply(&good.config_map("bank-ca"));
    bank.apply(&policy.to_string());
    // Another controller has an entry in the same list.
    let foreign = json!({ "ancestorRef": { "name": "g" }, "controllerName": "other.example/x", "conditions": [{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let patch = json!({ "status": { "ancestors": [foreign] } }).to_string();
    bank.kubectl(&["patch", "backendtlspolicy/bank", "--subresource=status", "--type=merge", "--patch", &patch]);
    let message = wait_for_refs(&bank, "bank", "CertificateNotFound");
    assert!(message.contains(&format!("ConfigMap {}/bank-ca: tidegate may not read it", bank.name)), "{message}");
    let entry = wait_for_policy(&bank, &edge.name, "NoValidCACertificate", "InvalidCACertificateRef");
    assert_eq!(
        entry["ancestorRef"],
        json!({ "group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": edge.name })
    );
    give_right(cluster, &message);
    assert_eq!(gateway.wait_for(&host, 200), "pod");
    wait_for_refs(&bank, "bank", "ResolvedRefs");
    wait_for_policy(&bank, &edge.name, "Accepted", "ResolvedRefs");
    let controllers = ["get", "backendtlspolicy/bank", "-o", "jsonpath={.status.ancestors[*].controllerName}"];
    assert_eq!(bank.kubectl(&controllers), format!("other.example/x tidegate.dev/{}", edge.name));
    let version = || bank.kubectl(&["get", "backendtlspolicy/bank", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version();
    // A younger policy for the same Service is told that it does not count; about the first there is nothing new to write.
    let mut second = policy.clone();
    second["metadata"]["name"] = "second".into();
    bank.apply(&second.to_string());
    wait_for("the younger policy to be told", || {
        let reason = ["get", "backendtlspolicy/second", "-o", "jsonpath={.status.ancestors[*].conditions[0].reason}"];
        let reason = bank.kubectl(&reason);
        if reason == "Conflicted" { Ok(()) } else { Err(reason) }
    });
    bank.kubectl(&["delete", "backendtlspolicy", "second"]);
    assert_eq!(version(), before);
    // Authorities that have not signed the pod's certificate, and back.
    bank.apply(&other.config_map("bank-ca"));
    gateway.wait_for(&host, 502);
    bank.apply(&good.config_map("bank-ca"));
    gateway.wait_for(&host, 200);
    bank.kubectl(&["delete", "backendtlspolicy", "bank"]);
    gateway.wait_for(&host, 500);
    wait_for_refs(&bank, "bank", "UnsupportedProtocol");
    // Where no route leads to the Service any more, nothing is said.
    bank.apply(&policy.to_string());
    wait_for_policy(&bank, &edge.name, "Accepted", "ResolvedRefs");
    bank.kubectl(&["delete", "gwr", "bank"]);
    wait_for("our entry to go", || match bank.kubectl(&controllers) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}
