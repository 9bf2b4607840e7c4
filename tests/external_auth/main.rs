//! The whole program with a service that says which requests may pass (ExternalAuth).

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

#[path = "../support/mod.rs"]
mod support;

mod grpc;
mod http;
mod http2;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use support::gateway::{Gateway, service};

/// A port that nobody listens on.
fn refusing() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A gateway with the Services `s` and `auth` before these ports, whose only rule has these filters; answers of its own say
/// why.
fn start(pod: u16, auth: &[u16], filters: &str) -> Gateway {
    start_with(&[("s", &[pod]), ("auth", auth)], filters)
}

fn start_with(services: &[(&str, &[u16])], filters: &str) -> Gateway {
    let files: Vec<_> = services.iter().map(|(name, ports)| (format!("{name}.yaml"), service(name, ports))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    start_with_files(&files, filters)
}

/// The same with the Services as manifests.
fn start_with_files(services: &[(&str, String)], filters: &str) -> Gateway {
    let route = format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - name: it\n    filters:\n{filters}    backendRefs: [{{name: s, port: 80}}]\n"
    );
    let mut files = vec![("r.yaml", route.as_str())];
    files.extend(services.iter().map(|(name, text)| (*name, text.as_str())));
    Gateway::start_with(&files, &["--workers", "1", "--settings", settings().to_str().unwrap()])
}

fn settings() -> &'static Path {
    static SETTINGS: OnceLock<PathBuf> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("external-auth-settings.yaml");
        std::fs::write(&path, "forwarding: {reasonHeader: true}\n").unwrap();
        path
    })
}
