//! What each target begins with: the wire cases, the manifests of the repository, and a few texts.

use std::path::{Path, PathBuf};

use super::cases::{self, Case, Step, find, latin1};

fn root() -> PathBuf {
    // The workspace's folder, whichever of its packages this is compiled into.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = package.ends_with("tests/fuzz").then(|| package.join("../.."));
    below.unwrap_or_else(|| package.to_owned())
}

/// Writes the seeds of a target into the folder that `TIDEGATE_FUZZ_SEEDS` names, before libFuzzer reads them there.
pub fn write(target: &str) {
    let Some(folder) = std::env::var_os("TIDEGATE_FUZZ_SEEDS") else { return };
    let target = super::TARGETS.iter().find(|known| known.name == target).expect("a target of the list");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{number:03}")), seed).expect("a folder to write to");
    }
}

/// Two bytes that steer how the rest is split.
fn steered(bytes: &[u8]) -> Vec<u8> {
    [b"00", bytes].concat()
}

/// The bytes that a case sends; what is long is long by repetition.
fn stream(case: &Case) -> Vec<u8> {
    let bytes = case.send.iter().filter_map(|step| match step {
        Step::Bytes(bytes) => Some(&bytes[..]),
        Step::HalfClose => None,
    });
    let mut bytes = bytes.collect::<Vec<_>>().concat();
    bytes.truncate(4096);
    bytes
}

fn streams() -> Vec<Vec<u8>> {
    cases::load_from(&root()).cases.iter().map(stream).collect()
}

pub fn request() -> Vec<Vec<u8>> {
    streams().iter().map(|bytes| steered(bytes)).collect()
}

pub fn proxy_protocol() -> Vec<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];
    let binary = |rest: &[&[u8]]| [&[SIGNATURE], rest].concat().concat();
    let headers = [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 fd00::2 80 443\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:f...f:ffff\r\n".to_vec(),
        binary(&[&[0x21, 0x11, 0, 12], &v4]),
        binary(&[&[0x21, 0x11, 0, 27], &v4, &[4, 0, 1, 9, 3, 0, 4, 0, 0, 0, 0], &[0x20, 0, 1, 7]]),
        binary(&[&[0x21, 0x21, 0, 36], &[0xfd; 36]]),
        binary(&[&[0x20, 0x00, 0, 0]]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    headers.iter().map(|bytes| steered(bytes)).collect()
}

pub fn response() -> Vec<Vec<u8>> {
    let more = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        "HTTP/1.0 200\r\nConnection: keep-alive, x-own\r\nX-Own: 1\r\nKeep-Alive: timeout=5, max=9\r\n\r\nto the end",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
        "HTTP/1.1 299 My Own\r\nContent-Length: 007\r\nX: \u{e9}\r\n\r\n1234567HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n",
    ];
    let scripts = cases::load_from(&root()).scripts;
    let sent = scripts.iter().map(|script| script.sends().collect::<Vec<_>>().concat());
    let all: Vec<Vec<u8>> = more.iter().map(|text| latin1(text)).chain(sent).collect();
    // A byte of flags says what was asked.
    all.iter().flat_map(|bytes| [0, 1, 6].map(|flags| [&[flags], &steered(bytes)[..]].concat())).collect()
}

pub fn chunks() -> Vec<Vec<u8>> {
    let bodies = streams().into_iter().filter_map(|bytes| {
        let end = find(&bytes, b"\r\n\r\n")?;
        let head = bytes[..end].to_ascii_lowercase();
        find(&head, b"chunked").map(|_| steered(&bytes[end + 4..]))
    });
    let small: String = (1..40).map(|size| format!("{size:x}\r\n{}\r\n", "a".repeat(size))).collect();
    bodies.chain([steered(format!("{small}0\r\nX-T: 1\r\n\r\n").as_bytes())]).collect()
}

pub fn path_authority() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for bytes in streams() {
        seeds.extend(bytes.split(|&b| b == b' ').nth(1).map(<[u8]>::to_vec));
        let lines = bytes.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
        seeds.extend(lines.filter_map(|line| Some(line.strip_prefix(b"Host: ")?.to_vec())));
    }
    let more = ["/a/..;x/%2e%2E/%2f/b//c/./..", "[::1]:8080", "A.test.:443", "a_b-c.test:", "/\u{e9}\"<>`\\?\u{e9}<"];
    seeds.extend(more.map(|text| text.as_bytes().to_vec()));
    seeds.sort();
    seeds.dedup();
    seeds
}

pub fn http2_head() -> Vec<Vec<u8>> {
    let of_case = |bytes: Vec<u8>| -> Option<Vec<u8>> {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (line, fields) = text.split_once("\r\n")?;
        let (method, target) = line.split_once(' ')?;
        let target = target.split(' ').next()?;
        let mut seed = format!("\x00{method} http a.test {target}");
        for (name, value) in fields.split("\r\n").filter_map(|line| line.split_once(": ")).take(100) {
            seed += &format!("\n{}:{value}", name.to_ascii_lowercase());
        }
        Some(seed.into_bytes())
    };
    let more = ["\x08POST https a.test /a/../b?q\nexpect:100-continue\nte:trailers\nx_y:1", "\x06OPTIONS  a.test *"];
    streams().into_iter().filter_map(of_case).chain(more.map(|text| text.as_bytes().to_vec())).collect()
}

pub fn matching() -> Vec<Vec<u8>> {
    let texts = [
        "= a.test /a\n< a.test /\n{ a.test /a/{id}\n~ a.test /a.*\na.test /a\na.test /a/5\na.test /b\n",
        "< *.test /a/b\n< * /a\n{ *.a.test /{x}/{y}/{rest*}\nb.a.test /a/b/c/d\ntest /a/b\n- /a\nx /a/\n",
        "{! a.test /a/{b}/\n{ a.test /{a}/b\n= a.test /a%2fb\na.test /a/b/\na.test /a/b\na.test /a%2Fb\na.test //a//b\n",
        "< a.test /api\n< a.test /admin\na.test /api/../admin\na.test /admin/..;/api\na.test /apix\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// The files of a folder, in the order of their names.
fn files(folder: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder of the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let manifests = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    manifests.map(|path| std::fs::read(path).expect("a readable file")).collect()
}

pub fn yaml() -> Vec<Vec<u8>> {
    let mut seeds = files("manifests/demo");
    seeds.extend(files("tests/data/bad-manifests"));
    // What is long says nothing that the short ones do not.
    seeds.retain(|seed| seed.len() <= 8 << 10);
    seeds
}

pub fn settings() -> Vec<Vec<u8>> {
    let texts = [
        "listeners: {public: {address: ':80', trustedForwarders: [10.0.0.0/8], healthPath: /healthz}}\nworkers: 2\n",
        "deadlines: {firstByte: 1s, head: 2s, idle: 1m30s, connect: 250ms, responseHead: 0s}\naccessLog: stdout\n",
        "limits: {body: 1048576, http2Streams: 100, connections: 10}\nmetrics: {maxSeries: 5}\nadmin: 127.0.0.1:9090\n",
        "drain: {delay: 5s, timeout: 15s}\ncontroller: {hostnameOwnership: Namespace}\ndebugAllow: ['::1']\n",
        "listeners: {a: {address: '[::1]:0', protocol: HTTPS}}\n",
        "limits: {body: 0x10, head: many}\nunknown: 1\n",
        "10.0.0.0/8",
        "fd00::/8",
        ":8080",
        "1h2m3s4ms",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
