//! The proxies under comparison, with settings that let each do its best and do the same work.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::process::Process;

/// A running proxy and the port it serves on.
pub struct Peer {
    /// Its name in the tables.
    pub name: &'static str,
    /// Its process.
    pub process: Process,
    /// The port it listens on.
    pub port: u16,
    /// The port where it speaks TLS, if it does.
    pub tls_port: Option<u16>,
    /// The port where it speaks HTTP/2 without TLS to clients and gRPC pods, if it does.
    pub grpc_port: Option<u16>,
}

/// One certificate with its key as PEM, for all who are compared: ECDSA P-256, signed by itself.
pub struct Certificate {
    certificate: String,
    key: String,
}

impl Certificate {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Writes both parts into one file, as HAProxy and nginx read it.
    fn write(&self, file: &Path) -> io::Result<()> {
        fs::write(file, format!("{}{}", self.certificate, self.key))
    }

    /// The manifest of a Secret `default/bench`.
    fn secret(&self) -> String {
        let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bench}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  \
             tls.key: |\n{}",
            indented(&self.certificate),
            indented(&self.key)
        )
    }
}

/// A port that was free a moment ago, for peers that cannot pick one themselves.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where a program is, searched in the usual folders.
pub fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}

/// Writes a Service with the backend pair, `extra_routes` two-rule routes of one host each, and on demand one for all
/// other hosts.
///
/// # Errors
/// When a file cannot be written.
pub fn write_routes(dir: &Path, backends: [u16; 2], extra_routes: usize, catch_all: bool) -> io::Result<()> {
    let slice = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  ports: [{{name: http, port: 80}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: bench-1\n  labels: \
         {{kubernetes.io/service-name: bench}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: \
         [{{addresses: [127.0.0.1]}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
         bench-2\n  labels: {{kubernetes.io/service-name: bench}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\n\
         endpoints: [{{addresses: [127.0.0.1]}}]\n",
        backends[0], backends[1]
    );
    fs::write(dir.join("service.yaml"), slice)?;
    let route = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: bench}\nspec:\n  rules:\n  - \
                 backendRefs: [{name: bench, port: 80}]\n    loadBalancer: {algorithm: LeastRequest}\n";
    if catch_all {
        fs::write(dir.join("route.yaml"), route)?;
    }
    for file in 0..extra_routes.div_ceil(100) {
        let mut text = String::new();
        for index in (file * 100)..((file + 1) * 100).min(extra_routes) {
            text.push_str(&format!(
                "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: route-{index}}}\nspec:\n  \
                 hostnames: [\"host-{index}.example.com\"]\n  rules:\n  - matches: [{{path: {{type: PathPrefix, value: \
                 /api}}}}]\n    backendRefs: [{{name: bench, port: 80}}]\n  - backendRefs: [{{name: bench, port: 80}}]\n"
            ));
        }
        fs::write(dir.join(format!("routes-{file}.yaml")), text)?;
    }
    Ok(())
}

/// Writes a Service of two pods that speak gRPC, and the rule that sends the calls of `method` to them.
///
/// # Errors
/// When the file cannot be written.
pub fn write_grpc_route(dir: &Path, backends: [u16; 2], method: &str) -> io::Result<()> {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: grpc}\nspec:\n  ports: [{name: grpc, port: 80, appProtocol: \
         kubernetes.io/h2c}]\n",
    );
    for port in backends {
        text.push_str(&format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: grpc-{port}\n  labels: \
             {{kubernetes.io/service-name: grpc}}\naddressType: IPv4\nports: [{{name: grpc, port: {port}}}]\nendpoints: \
             [{{addresses: [127.0.0.1]}}]\n"
        ));
    }
    text.push_str(&format!(
        "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: grpc}}\nspec:\n  rules:\n  - \
         matches: [{{path: {{type: Exact, value: {method}}}}}]\n    backendRefs: [{{name: grpc, port: 80}}]\n    \
         loadBalancer: {{algorithm: LeastRequest}}\n"
    ));
    fs::write(dir.join("grpc.yaml"), text)
}

/// Host of the route without filters and of the one with three header edits, which [`write_filter_routes`] writes.
pub const PLAIN_HOST: &str = "plain.example.com";
/// See [`PLAIN_HOST`].
pub const EDITED_HOST: &str = "edited.example.com";
/// The request field that the filters remove.
pub const REMOVED_FIELD: &str = "x-bench-removed";
/// The response field that the filters set.
pub const SET_FIELD: &str = "x-bench-answer";

/// Writes two routes that differ only in three header edits: two on the request, one on the response.
///
/// # Errors
/// When the file cannot be written.
pub fn write_filter_routes(dir: &Path) -> io::Result<()> {
    let filters = format!(
        "    filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        set: [{{name: x-bench-set, \
         value: edited}}]\n        remove: [{REMOVED_FIELD}]\n    - type: ResponseHeaderModifier\n      \
         responseHeaderModifier:\n        set: [{{name: {SET_FIELD}, value: edited}}]\n"
    );
    let mut text = String::new();
    for (name, host, filters) in [("plain", PLAIN_HOST, ""), ("edited", EDITED_HOST, filters.as_str())] {
        text.push_str(&format!(
            "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
             [{host}]\n  rules:\n  - backendRefs: [{{name: bench, port: 80}}]\n    loadBalancer: {{algorithm: \
             LeastRequest}}\n{filters}"
        ));
    }
    fs::write(dir.join("filters.yaml"), text)
}

/// tidegate in standalone mode with one data worker.
///
/// # Errors
/// When it cannot be started or prints no ready line.
pub fn tidegate(binary: &Path, dir: &Path, core: Option<usize>) -> io::Result<(Peer, u16)> {
    ready(Process::start("tidegate", core, binary, &standalone(dir), false)?)
}

/// The same with a listener that speaks TLS and shows one certificate to everyone. `dir` holds its routes, `settings` is the
/// file to write its listeners to.
///
/// # Errors
/// When a file cannot be written, or as [`tidegate`].
pub fn tidegate_with_tls(
    binary: &Path,
    dir: &Path,
    settings: &Path,
    certificate: &Certificate,
    core: usize,
) -> io::Result<Peer> {
    fs::write(dir.join("certificate.yaml"), certificate.secret())?;
    let listeners = "listeners:\n  http: {address: \"127.0.0.1:0\"}\n  https: {address: \"127.0.0.1:0\", protocol: HTTPS, \
                     defaultCertificate: {namespace: default, name: bench}}\n";
    fs::write(settings, listeners)?;
    let (dir, settings) = (dir.to_string_lossy(), settings.to_string_lossy());
    let args = ["standalone", "--config", &dir, "--settings", &settings, "--admin", "127.0.0.1:0"];
    let args: Vec<String> = args.iter().chain(&REST).map(|arg| (*arg).to_owned()).collect();
    Ok(ready(Process::start("tidegate", Some(core), binary, &args, false)?)?.0)
}

/// The same below a program that watches it: `tool` is that program, `options` come before the binary's path.
///
/// # Errors
/// When it cannot be started or prints no ready line.
pub fn watched_tidegate(tool: &Path, options: &[String], binary: &Path, dir: &Path) -> io::Result<Peer> {
    let mut args = options.to_vec();
    args.push(binary.display().to_string());
    args.extend(standalone(dir));
    // Its life below a tool is short and of no interest; what goes wrong is.
    args.extend(["--log".to_owned(), "warn".to_owned()]);
    Ok(ready(Process::start("tidegate", None, tool, &args, false)?)?.0)
}

/// What every tidegate of a benchmark has.
const REST: [&str; 4] = ["--workers", "1", "--access-log", "off"];

fn standalone(dir: &Path) -> Vec<String> {
    let args = ["standalone", "--config", &dir.to_string_lossy(), "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    args.iter().chain(&REST).map(|arg| (*arg).to_owned()).collect()
}

/// Waits for the ready line; the port of the admin server beside the peer.
fn ready(mut process: Process) -> io::Result<(Peer, u16)> {
    let line = process.first_line()?;
    let ready: serde_json::Value = serde_json::from_str(&line)?;
    let port = |value: &serde_json::Value| {
        let address = value.as_str().and_then(|text| text.rsplit_once(':')).map(|(_, port)| port.to_owned());
        address.and_then(|port| port.parse::<u16>().ok()).ok_or_else(|| io::Error::other(format!("ready line {line}")))
    };
    let admin = port(&ready["admin"])?;
    let listeners = &ready["listeners"];
    let tls_port = listeners.get("https").map(port).transpose()?;
    let plain = port(&listeners["http"])?;
    Ok((Peer { name: "tidegate", port: plain, tls_port, grpc_port: Some(plain), process }, admin))
}

/// The ports of the backends.
#[derive(Clone, Copy)]
pub struct Backends {
    /// The two that speak HTTP/1.1.
    pub http: [u16; 2],
    /// The two that speak gRPC over HTTP/2 without TLS.
    pub grpc: [u16; 2],
}

/// nginx with one worker, upstream keep-alive and the forwarding fields that tidegate sends; `/ws` may be upgraded.
///
/// `tunnel_buffer` is its buffer for each direction of a tunnel, as nginx writes sizes. The default of 4k splits messages of
/// 16 KiB into four reads and writes; what fits the buffer takes one of each.
///
/// # Errors
/// When it cannot be started.
pub fn nginx(
    program: &Path,
    dir: &Path,
    backends: &Backends,
    certificate: &Certificate,
    core: usize,
    tunnel_buffer: &str,
) -> io::Result<Peer> {
    let (port, tls_port, grpc_port) = (free_port()?, free_port()?, free_port()?);
    let pem = dir.join("nginx.pem");
    certificate.write(&pem)?;
    // A location of its own for tunnels: other requests do not pay for the two fields of an upgrade.
    let forward = "proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header \
                   X-Forwarded-For $remote_addr;\n proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header \
                   X-Forwarded-Host $http_host;\n proxy_read_timeout 600s; proxy_send_timeout 600s;";
    let config = format!(
        "worker_processes 1; daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.log crit; worker_rlimit_nofile 65536;\n\
         events {{ worker_connections 16384; multi_accept on; }}\n\
         http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi; proxy_buffers 16 16k; proxy_buffer_size 16k;\n\
         upstream bench {{ server 127.0.0.1:{}; server 127.0.0.1:{}; keepalive 512; keepalive_requests 1000000000; }}\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         upstream grpc {{ server 127.0.0.1:{}; server 127.0.0.1:{}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{grpc_port} http2 backlog=4096; location / {{ grpc_pass grpc://grpc; }} }}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{tls_port} ssl http2 backlog=4096;\n\
         location / {{ {forward} proxy_set_header Connection \"\"; }}\n\
         location = /ws {{ {forward} proxy_buffer_size {tunnel_buffer}; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \
         $connection_upgrade; }} }} }}\n",
        backends.http[0],
        backends.http[1],
        backends.grpc[0],
        backends.grpc[1],
        dir = dir.display(),
        pem = pem.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let args =
        ["-c".to_owned(), file.display().to_string(), "-e".to_owned(), dir.join("nginx.log").display().to_string()];
    let process = Process::start("nginx", Some(core), program, &args, true)?;
    Ok(Peer { name: "nginx", process, port, tls_port: Some(tls_port), grpc_port: Some(grpc_port) })
}

/// HAProxy with one thread and shared upstream connections.
///
/// # Errors
/// When it cannot be started.
pub fn haproxy(
    program: &Path,
    dir: &Path,
    backends: &Backends,
    certificate: &Certificate,
    core: usize,
) -> io::Result<Peer> {
    let (port, tls_port, grpc_port) = (free_port()?, free_port()?, free_port()?);
    let pem = dir.join("haproxy.pem");
    certificate.write(&pem)?;
    let config = format!(
        "global\n nbthread 1\n maxconn 8000\ndefaults\n mode http\n option http-keep-alive\n http-reuse always\n timeout \
         connect 5s\n timeout client 600s\n timeout server 600s\n timeout tunnel 600s\nfrontend f\n bind \
         127.0.0.1:{port}\n bind 127.0.0.1:{tls_port} ssl crt {} alpn h2,http/1.1\n default_backend b\n\
         frontend g\n bind 127.0.0.1:{grpc_port} proto h2\n default_backend g\nbackend g\n balance roundrobin\n \
         server a 127.0.0.1:{} proto h2\n server b 127.0.0.1:{} proto h2\nbackend b\n balance roundrobin\n option forwardfor\n http-request set-header \
         X-Forwarded-Proto https if {{ ssl_fc }}\n http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n server a 127.0.0.1:{} \
         pool-max-conn 512\n server b 127.0.0.1:{} pool-max-conn 512\n",
        pem.display(),
        backends.grpc[0],
        backends.grpc[1],
        backends.http[0],
        backends.http[1]
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let args = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    let process = Process::start("haproxy", Some(core), program, &args, true)?;
    Ok(Peer { name: "haproxy", process, port, tls_port: Some(tls_port), grpc_port: Some(grpc_port) })
}

/// Envoy with one worker, for requests of all kinds.
///
/// # Errors
/// When it cannot be started.
pub fn envoy(
    program: &Path,
    dir: &Path,
    backends: &Backends,
    certificate: &Certificate,
    core: usize,
) -> io::Result<Peer> {
    let (port, tls_port, grpc_port) = (free_port()?, free_port()?, free_port()?);
    let pem = dir.join("envoy.pem");
    certificate.write(&pem)?;
    let listener = |name: &str, port: u16, cluster: &str, tls: &str| {
        format!(
            "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    \
             filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        \
             typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
             stat_prefix: {name}\n          generate_request_id: false\n          use_remote_address: true\n          \
             route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: \
             {{cluster: {cluster}, timeout: 600s}}}}]}}]}}\n          http_filters: [{{name: \
             envoy.filters.http.router, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n{tls}"
        )
    };
    let pem = pem.display();
    let tls = format!(
        "      transport_socket: {{name: tls, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: \
         {{alpn_protocols: [h2, http/1.1], tls_certificates: [{{certificate_chain: {{filename: {pem}}}, private_key: \
         {{filename: {pem}}}}}]}}}}}}\n"
    );
    let cluster = |name: &str, ports: [u16; 2], options: &str| {
        let endpoints = ports.map(|port| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
        });
        format!(
            "  - {{name: {name}, type: STATIC, lb_policy: LEAST_REQUEST, load_assignment: {{cluster_name: {name}, \
             endpoints: [{{lb_endpoints: [{}]}}]}}{options}}}\n",
            endpoints.join(", ")
        )
    };
    let http2 = ", typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
                 type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
                 {http2_protocol_options: {}}}}";
    let config = format!(
        "static_resources:\n  listeners:\n{}{}{}  clusters:\n{}{}",
        listener("http", port, "http", ""),
        listener("https", tls_port, "http", &tls),
        listener("grpc", grpc_port, "grpc", ""),
        cluster("grpc", backends.grpc, http2),
        cluster("http", backends.http, "")
    );
    let file = dir.join("envoy.yaml");
    fs::write(&file, config)?;
    let file = file.display().to_string();
    let args = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let process = Process::start("envoy", Some(core), program, &args, true)?;
    Ok(Peer { name: "envoy", process, port, tls_port: Some(tls_port), grpc_port: Some(grpc_port) })
}
