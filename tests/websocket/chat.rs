//! The demo's chat: its page, its redirect, its sockets, and a real browser that says something.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::bed::{Socket, run};
use super::support::client::Client;
use super::support::gateway::{port, spawn};
use super::support::tools::program;

/// A running demo with the chat's manifest, its backends on a free port.
struct Demo {
    child: std::process::Child,
    http: u16,
    https: u16,
    _dir: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo/chat.yaml");
        let free = TcpListener::bind("127.0.1.41:0").unwrap().local_addr().unwrap().port();
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains("port: 9101"));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("chat.yaml"), text.replace("port: 9101", &format!("port: {free}"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["demo", "--config"]).arg(dir.path()).args([
            "--http",
            "127.0.0.1:0",
            "--https",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]);
        let (child, ready) = spawn(command.args(args).stderr(Stdio::null()));
        let [http, https] = ["http", "https"].map(|name| port(&ready["listeners"][name]));
        Self { child, http, https, _dir: dir }
    }

    async fn enter(&self, room: &str) -> (Socket, String) {
        let mut request = format!("ws://127.0.0.1:{}/rooms/{room}/ws", self.http).into_client_request().unwrap();
        request.headers_mut().insert("host", HeaderValue::from_static("chat.localhost"));
        let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
        assert_eq!(response.headers()["referrer-policy"], "no-referrer", "the layer of the route");
        let welcome = socket.next().await.unwrap().unwrap().into_text().unwrap();
        let pod = welcome.strip_prefix("welcome to ").unwrap().to_owned();
        (socket, pod)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn members_of_a_room_meet_at_one_pod_and_hear_each_other() {
    let demo = Demo::start();
    let mut client = Client::connect(demo.http);
    let page = client.get("chat.localhost", "/");
    assert!(page.status == 200 && page.body.contains("<title>tidegate chat</title>"), "the rewrite leads to the page");
    // Browsers put the port into Host, and the redirect keeps it.
    let host = format!("chat.localhost:{}", demo.http);
    let old = client.get(&host, "/chat");
    assert_eq!((old.status, old.field("location")), (301, Some(format!("http://{host}/").as_str())));
    let old = client.get("chat.localhost", "/chat");
    assert_eq!((old.status, old.field("location")), (301, Some("http://chat.localhost/")));
    run(async {
        for room in 0..8 {
            let room = format!("room-{room}");
            let ((mut one, first), (mut other, second)) = (demo.enter(&room).await, demo.enter(&room).await);
            assert_eq!(first, second, "{room}");
            one.send(Message::text("hello")).await.unwrap();
            for socket in [&mut one, &mut other] {
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(format!("{first}: hello")));
            }
            one.close(None).await.unwrap();
        }
    });
}

/// A headless browser on a page, driven over its debugging socket.
struct Browser {
    _child: tokio::process::Child,
    _profile: tempfile::TempDir,
    page: Socket,
    calls: u64,
}

impl Browser {
    async fn open(chromium: &Path, url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = tokio::process::Command::new(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .arg("--ignore-certificate-errors")
            .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
            .args(["--host-resolver-rules=MAP chat.localhost 127.0.0.1", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // It tells its port on standard error, which must be read on: a full pipe would stop it.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port: u16 = loop {
            let line = lines.next_line().await.unwrap().expect("the browser starts");
            if let Some((_, rest)) = line.split_once("DevTools listening on ws://127.0.0.1:") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let page = loop {
            let list = tokio::task::spawn_blocking(move || Client::connect(port).get("localhost", "/json/list").body);
            let list: Vec<Value> = serde_json::from_str(&list.await.unwrap()).unwrap();
            let page = list
                .iter()
                .find(|target| target["type"] == "page" && target["url"].as_str().is_some_and(|own| own == url));
            if let Some(page) = page {
                break format!("ws://127.0.0.1:{port}/devtools/page/{}", page["id"].as_str().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let (page, _) = tokio_tungstenite::connect_async(page).await.unwrap();
        Self { _child: child, _profile: profile, page, calls: 0 }
    }

    /// The value of an expression on the page, as text.
    async fn evaluate(&mut self, expression: &str) -> String {
        self.calls += 1;
        let call = serde_json::json!({
            "id": self.calls, "method": "Runtime.evaluate", "params": { "expression": expression } });
        self.page.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = self.page.next().await.unwrap().unwrap().into_text().unwrap();
            let message: Value = serde_json::from_str(&message).unwrap();
            if message["id"] == self.calls {
                return message["result"]["result"]["value"].as_str().unwrap_or_default().to_owned();
            }
        }
    }
}

#[test]
fn a_browser_exchanges_messages_in_the_chat() {
    let Some(chromium) = program("chromium") else { return };
    let demo = Demo::start();
    run(async {
        let (mut socket, pod) = demo.enter("lobby").await;
        let url = format!("http://chat.localhost:{}/?say=hello+from+a+browser", demo.http);
        let mut browser = Browser::open(&chromium, &url).await;
        // What the browser says arrives here, over two sockets and one pod.
        let said = socket.next().await.unwrap().unwrap();
        assert_eq!(said, Message::text(format!("{pod}: hello from a browser")));
        socket.send(Message::text("hello browser")).await.unwrap();
        let answer = format!("{pod}: hello browser");
        let mut log = String::new();
        while !log.contains(&answer) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            log = browser.evaluate("document.getElementById('log').innerText").await;
        }
        assert!(log.contains(&format!("welcome to {pod}")) && !log.contains("closed"), "{log}");
        // And through the form, as people do.
        browser.evaluate("text.value = 'typed'; document.forms[0].requestSubmit(); ''").await;
        // Members hear themselves, too.
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(answer));
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(format!("{pod}: typed")));
    });
}

/// A page that came over HTTP/2 opens its socket on the same connection (RFC 8441), which the gateway makes one of HTTP/1.1 of.
#[test]
fn a_browser_opens_wss_on_the_connection_of_its_page() {
    let Some(chromium) = program("chromium") else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    let demo = Demo::start_with(&["--access-log", log.path().to_str().unwrap()]);
    run(async {
        let (mut socket, pod) = demo.enter("lobby").await;
        let url = format!("https://chat.localhost:{}/?say=hello+over+HTTP/2", demo.https);
        let browser = Browser::open(&chromium, &url).await;
        let said = socket.next().await.unwrap().unwrap();
        assert_eq!(said, Message::text(format!("{pod}: hello over HTTP/2")));
        drop(browser);
        drop(socket);
    });
    // A socket is logged when it ends.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let of_browser = |status: u16| -> Option<Value> {
        let text = fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["status"] == status && line["protocol"] == "HTTP/2")
    };
    while of_browser(101).is_none() {
        assert!(std::time::Instant::now() < deadline, "{}", fs::read_to_string(log.path()).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (page, socket) = (of_browser(200).unwrap(), of_browser(101).unwrap());
    assert_eq!((&page["peer"], socket["method"].as_str()), (&socket["peer"], Some("GET")), "one connection");
}
