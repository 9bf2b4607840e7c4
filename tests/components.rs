//! Real programs on both sides: Prometheus scrapes, promtool judges, nginx and Python's `http.server` serve behind the
//! gateway, curl asks in front of it.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::client::Client;
use support::gateway::{Gateway, route, service};
use support::tools::program;

/// A program of the system that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &Path, args: &[String], dir: &Path) -> Running {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().expect("the program starts"))
}

/// A loopback port that was free a moment ago, for programs that cannot pick one themselves.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Client::try_connect(port).is_err() {
        assert!(Instant::now() < deadline, "nothing accepts on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn prometheus_scrapes_the_gateway_and_promtool_finds_no_fault() {
    let (Some(prometheus), Some(promtool)) = (program("prometheus"), program("promtool")) else { return };
    let backend = Backend::start("a");
    let gateway =
        Gateway::start(&[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))]);
    for _ in 0..7 {
        assert_eq!(gateway.get("a.test", "/").status, 200);
    }
    let metrics = gateway.admin("/metrics");
    assert_eq!(metrics.status, 200);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("metrics.txt");
    fs::write(&file, &metrics.body).expect("a file");
    let check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).expect("a file"))
        .output()
        .expect("promtool runs");
    let said = format!("{}{}", String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
    assert!(check.status.success() && said.trim().is_empty(), "promtool: {said}");

    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: tidegate\n  static_configs: \
         [{{targets: ['127.0.0.1:{}']}}]\n",
        gateway.admin
    );
    fs::write(dir.path().join("prometheus.yml"), config).expect("a file");
    let port = free_port();
    let args = [
        format!("--config.file={}", dir.path().join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let _running = run(&prometheus, &args, dir.path());
    wait_for_port(port);
    let ask = |query: &str| {
        let answer = Client::connect(port).get("127.0.0.1", &format!("/api/v1/query?query={query}"));
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        json["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let up = ask("up");
        let requests = ask("sum(tidegate_requests_total%7Broute=%22default/a%22%7D)");
        if up.as_deref() == Some("1") && requests.as_deref() == Some("7") {
            break;
        }
        assert!(Instant::now() < deadline, "Prometheus has up={up:?} and requests={requests:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nginx_as_a_backend_gets_requests_and_bodies_and_its_answers_come_through() {
    let Some(nginx) = program("nginx") else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let root = dir.path().join("www");
    fs::create_dir(&root).expect("a folder");
    let large: String = "0123456789abcdef".repeat(64 << 10);
    fs::write(root.join("large.txt"), &large).expect("a file");
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/log crit;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; \
         scgi_temp_path {dir}/s;\nserver {{ listen 127.0.0.1:{port}; root {root};\nlocation /echo {{ return 200 \
         \"$request_method $http_host $http_x_forwarded_for $http_via\"; }} }} }}\n",
        dir = dir.path().display(),
        root = root.display()
    );
    fs::write(dir.path().join("nginx.conf"), config).expect("a file");
    let args = [
        "-c",
        &dir.path().join("nginx.conf").display().to_string(),
        "-e",
        &dir.path().join("log").display().to_string(),
    ];
    let _running = run(&nginx, &args.map(str::to_owned), dir.path());
    wait_for_port(port);
    let gateway = Gateway::start(&[
        ("service.yaml", &service("nginx", &[port])),
        ("route.yaml", &route("nginx", "n.test", "nginx")),
    ]);
    let mut client = Client::connect(gateway.http);
    for _ in 0..20 {
        assert_eq!(client.get("n.test", "/echo").body, "GET n.test 127.0.0.1 1.1 tidegate");
        let answer = client.get("n.test", "/large.txt");
        assert_eq!((answer.status, answer.body.len()), (200, large.len()));
        assert!(answer.body == large);
        assert_eq!(client.get("n.test", "/missing").status, 404);
        let post =
            client.request("POST /echo HTTP/1.1\r\nHost: n.test\r\nContent-Length: 5\r\n\r\nhello").expect("an answer");
        assert!(post.body.starts_with("POST n.test"), "{post:?}");
    }
    assert_eq!(client.get("n.test", "/large.txt").field("content-length"), Some(large.len().to_string().as_str()));
}

#[test]
fn pythons_http_server_as_a_backend_and_curl_as_a_client() {
    let (Some(python), Some(curl)) = (program("python3"), program("curl")) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("hello.txt"), "hello from python").expect("a file");
    let port = free_port();
    let args = ["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()].map(str::to_owned);
    let _running = run(&python, &args, dir.path());
    wait_for_port(port);
    let gateway =
        Gateway::start(&[("service.yaml", &service("p", &[port])), ("route.yaml", &route("p", "p.test", "p"))]);
    let ask = |args: &[&str]| {
        let output = Command::new(&curl)
            .args(["--silent", "--show-error", "--max-time", "20", "--header", "Host: p.test"])
            .args(args)
            .arg(format!("http://127.0.0.1:{}/hello.txt", gateway.http))
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ask(&[]), "hello from python");
    // http.server speaks HTTP/1.0 and ends its answers by closing: HEAD and GET must both come through whole.
    let head = ask(&["--head"]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 17"), "{head}");
    assert_eq!(ask(&["--http1.0"]), "hello from python");
}
