//! A Kubernetes API server for tests, in the process and on loopback: lists, pages, watches and streaming lists of the
//! kinds that tidegate reads, and every fault of them on command; beside that Leases, and the status of routes.
//!
//! It keeps objects as they are put, and checks and defaults nothing. What it answers where nothing is broken is what the
//! cases of `support/api_contract.rs` say, which a real API server has to pass as well.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// What it serves: group and version, plural, kind, whether objects have a namespace.
const RESOURCES: &[(&str, &str, &str, bool)] = &[
    ("tidegate.dev/v1alpha1", "gatewayroutes", "GatewayRoute", true),
    ("v1", "services", "Service", true),
    ("v1", "endpoints", "Endpoints", true),
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
    ("gateway.networking.k8s.io/v1", "referencegrants", "ReferenceGrant", true),
    ("gateway.networking.k8s.io/v1", "backendtlspolicies", "BackendTLSPolicy", true),
    ("coordination.k8s.io/v1", "leases", "Lease", true),
];

/// What is broken in an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A status instead of what was asked for, with the seconds after which to ask again.
    Answer(u16, Option<u32>),
    /// No answer, not even a head.
    Hang,
    /// A head, and then nothing.
    Stall,
    /// The body breaks off: a list after half of its objects, a watch at once.
    Cut,
    /// A watch says this status in an event and ends.
    ErrorEvent(u16),
    /// Every object of a list takes so long.
    Slow(Duration),
    /// This is put while a list is sent, under its plural: a stream tells it at once behind its mark.
    PutMeanwhile(&'static str, Box<Value>),
    /// A list as a stream ends at its mark, without a word.
    EndAtMark,
}

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Lists in pages.
    Page,
    /// Lists as streams.
    Stream,
    /// Both.
    List,
    /// Watches that go on from a version.
    Watch,
    /// All.
    Any,
}

/// How running watches deliver what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    #[default]
    Whole,
    /// Nothing arrives any more, and nothing ends.
    Stalled,
    /// Events are left out.
    Lossy,
    /// Every event comes twice.
    Twice,
    /// The events of one moment come in the wrong order.
    Reversed,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Page,
    /// A list as a stream.
    Stream,
    /// The same, which may be as old as what the API server has in memory.
    Copy,
    Watch,
}

impl Asked {
    /// Whether it is a list as a stream.
    fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Copy)
    }
}

#[derive(Default)]
struct Resource {
    kind: &'static str,
    api_version: &'static str,
    is_namespaced: bool,
    objects: BTreeMap<(String, String), Value>,
    /// What happened: version, type, object.
    log: Vec<(u64, &'static str, Value)>,
    /// Versions up to this one are forgotten.
    compacted: u64,
    removed: bool,
    forbidden: bool,
    /// Namespaces in which it may not be read.
    forbidden_in: Vec<String>,
    faults: Vec<(On, usize, Fault)>,
    delivery: Delivery,
    /// Running watches end when this changes: with an event of this status, or without a word.
    interruptions: Vec<Option<u16>>,
    /// Watches that run now, and interruptions that found none: those end the next one.
    running: usize,
    unmet: usize,
    asked: Vec<Asked>,
    /// Namespace and selector of all that was asked, once each: `shop`, `shop metadata.name=web`, `*` for all.
    asked_where: BTreeSet<String>,
}

#[derive(Default)]
struct State {
    version: u64,
    resources: BTreeMap<&'static str, Resource>,
    /// No connection is accepted, and none stays.
    down: bool,
    no_streaming_lists: bool,
    /// CustomResourceDefinitions are being removed.
    is_removing: bool,
    git_version: String,
    /// Of whatever sort.
    requests: usize,
}

struct Shared {
    state: Mutex<State>,
    /// Changes with every change of the state.
    changed: watch::Sender<u64>,
}

/// The server; it ends with the value.
pub struct ApiServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Sender = mpsc::Sender<io::Result<Bytes>>;

impl ApiServer {
    pub fn start() -> Self {
        let resource =
            |&(api_version, plural, kind, is_namespaced): &(&'static str, &'static str, &'static str, bool)| {
                (plural, Resource { kind, api_version, is_namespaced, compacted: 50, ..Resource::default() })
            };
        let resources = RESOURCES.iter().map(resource).collect();
        // As on a real server, the first versions are forgotten.
        let state = State { version: 100, resources, git_version: "v1.36.3".to_owned(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::channel(0).0 });
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, served, stopped));
        });
        let folder = tempfile::tempdir().unwrap();
        Self { address, shared, stop, thread: Some(thread), folder }
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// A folder that lives as long as the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts an object, new or changed.
    pub fn put(&self, plural: &str, object: Value) {
        self.change(|state| state.put(plural, object));
    }

    /// Puts many objects in one step.
    pub fn put_all(&self, plural: &str, objects: impl IntoIterator<Item = Value>) {
        self.change(|state| objects.into_iter().for_each(|object| drop(state.put(plural, object))));
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.change(|state| state.delete(plural, namespace, name));
    }

    /// All objects of a kind are gone and nothing says so, as after the data were restored from another time.
    pub fn lose_all(&self, plural: &str) {
        self.change(|state| {
            let version = state.version + 1;
            state.version = version;
            let resource = state.resource(plural);
            resource.objects.clear();
            resource.log.clear();
            resource.compacted = version;
        });
    }

    /// The data are those of an earlier time: versions go backwards, and the history is gone.
    pub fn go_back_to(&self, version: u64) {
        self.change(|state| {
            state.version = version;
            for resource in state.resources.values_mut() {
                resource.log.clear();
                resource.compacted = 50;
            }
        });
    }

    /// Forgets what happened up to now: watches from older versions are told that these have expired.
    pub fn compact(&self, plural: &str) {
        self.change(|state| {
            let version = state.version;
            let resource = state.resource(plural);
            resource.log.clear();
            resource.compacted = version + 1;
            state.version += 1;
        });
    }

    /// The next requests of this sort are answered with a fault; `usize::MAX` times: until [`heal`](Self::heal).
    pub fn fault(&self, plural: &str, on: On, times: usize, fault: Fault) {
        self.change(|state| state.resource(plural).faults.push((on, times, fault)));
    }

    /// No faults any more, and running watches deliver everything.
    pub fn heal(&self, plural: &str) {
        self.change(|state| {
            let resource = state.resource(plural);
            resource.faults.clear();
            resource.delivery = Delivery::Whole;
            resource.forbidden = false;
            resource.forbidden_in.clear();
            resource.removed = false;
        });
    }

    pub fn deliver(&self, plural: &str, delivery: Delivery) {
        self.change(|state| state.resource(plural).delivery = delivery);
    }

    /// Running watches end: with an event of this status, or broken off. Where one is about to begin, it is that one.
    pub fn interrupt(&self, plural: &str, code: Option<u16>) {
        self.change(|state| {
            let resource = state.resource(plural);
            resource.interruptions.push(code);
            resource.unmet += usize::from(resource.running == 0);
        });
    }

    /// The kind is not served any more, as when its CustomResourceDefinition is removed.
    pub fn remove_kind(&self, plural: &str) {
        self.change(|state| {
            let resource = state.resource(plural);
            resource.removed = true;
            resource.interruptions.push(None);
        });
    }

    /// The CustomResourceDefinition is being removed, and its objects are still there.
    pub fn begin_to_remove_definition(&self) {
        self.change(|state| state.is_removing = true);
    }

    /// The CustomResourceDefinition is being removed: its objects are deleted one by one, and then it is not served.
    pub fn remove_definition(&self, plural: &str) {
        self.begin_to_remove_definition();
        let keys: Vec<_> = self.shared.lock().resource(plural).objects.keys().cloned().collect();
        for (namespace, name) in keys {
            self.delete(plural, &namespace, &name);
        }
    }

    /// There is a new CustomResourceDefinition.
    pub fn restore_definition(&self) {
        self.change(|state| state.is_removing = false);
    }

    /// The kind may not be read any more.
    pub fn forbid(&self, plural: &str) {
        self.change(|state| {
            let resource = state.resource(plural);
            resource.forbidden = true;
            resource.interruptions.push(None);
        });
    }

    /// The kind may not be read in one namespace; running watches go on.
    pub fn forbid_in(&self, plural: &str, namespace: &str) {
        self.change(|state| state.resource(plural).forbidden_in.push(namespace.to_owned()));
    }

    /// Where a kind was asked for: namespace (`*` for all) and selector, each once, sorted.
    pub fn asked_where(&self, plural: &str) -> Vec<String> {
        self.shared.lock().resource(plural).asked_where.iter().cloned().collect()
    }

    /// No connection is accepted and none stays, or all is well again.
    pub fn set_down(&self, down: bool) {
        self.change(|state| state.down = down);
    }

    /// Lists as streams are refused, as by a server that does not know them.
    pub fn refuse_streaming_lists(&self) {
        self.change(|state| state.no_streaming_lists = true);
    }

    pub fn set_git_version(&self, version: &str) {
        self.change(|state| version.clone_into(&mut state.git_version));
    }

    /// What was asked about a kind, in order.
    pub fn asked(&self, plural: &str) -> Vec<Asked> {
        self.shared.lock().resource(plural).asked.clone()
    }

    /// How many requests there were, whatever they asked for.
    pub fn requests(&self) -> usize {
        self.shared.lock().requests
    }

    /// An object as it is now; null where there is none.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Value {
        let mut state = self.shared.lock();
        let object = state.resource(plural).objects.get(&(namespace.to_owned(), name.to_owned()));
        object.cloned().unwrap_or_default()
    }

    /// The present version.
    pub fn version(&self) -> u64 {
        self.shared.lock().version
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        done
    }
}

impl State {
    fn resource(&mut self, plural: &str) -> &mut Resource {
        self.resources.get_mut(plural).unwrap_or_else(|| panic!("{plural} is none of the kinds"))
    }

    fn put(&mut self, plural: &str, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let resource = self.resource(plural);
        let metadata = &mut object["metadata"];
        let key = (text(&metadata["namespace"]), text(&metadata["name"]));
        metadata["resourceVersion"] = version.to_string().into();
        let known = resource.objects.get(&key);
        metadata["uid"] = known.map_or_else(|| format!("uid-{version}").into(), |it| it["metadata"]["uid"].clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        resource.objects.insert(key, object.clone());
        resource.log.push((version, kind, object.clone()));
        object
    }

    fn delete(&mut self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let version = self.version + 1;
        let resource = self.resource(plural);
        let mut object = resource.objects.remove(&(namespace.to_owned(), name.to_owned()))?;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        resource.log.push((version, "DELETED", object.clone()));
        self.version = version;
        Some(object)
    }
}

impl Resource {
    /// Whether something is broken about this request.
    fn take_fault(&mut self, asked: Asked) -> Option<Fault> {
        let is_meant = |on: On| match (on, asked) {
            (On::Any, _)
            | (On::Page | On::List, Asked::Page)
            | (On::Stream | On::List, Asked::Stream | Asked::Copy)
            | (On::Watch, Asked::Watch) => true,
            (On::Page | On::Stream | On::List | On::Watch, _) => false,
        };
        let position = self.faults.iter().position(|(on, _, _)| is_meant(*on))?;
        let (_, times, fault) = &mut self.faults[position];
        let fault = fault.clone();
        *times = times.saturating_sub(usize::from(*times != usize::MAX));
        if *times == 0 {
            self.faults.remove(position);
        }
        Some(fault)
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted { Ok((stream, _)) => stream, Err(_) => continue },
            _ = stopped.changed() => return,
        };
        if shared.lock().down {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut changed = shared.changed.subscribe();
            let answering = Arc::clone(&shared);
            let service = hyper::service::service_fn(move |request| answer(Arc::clone(&answering), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = async { while !shared.lock().down && changed.changed().await.is_ok() {} } => {}
            }
        });
    }
}

/// A path of an API server.
struct Target {
    plural: &'static str,
    namespace: Option<String>,
    name: Option<String>,
    is_status: bool,
    query: BTreeMap<String, String>,
}

impl Target {
    fn parse(uri: &http::Uri) -> Option<Self> {
        let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let (api_version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, is_status) = match rest {
            [plural] => (plural, None, false),
            [plural, name] => (plural, Some((*name).to_owned()), false),
            [plural, name, "status"] => (plural, Some((*name).to_owned()), true),
            _ => return None,
        };
        // The versions of this kind are equal.
        let api_version = api_version.replace("gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1");
        let plural = RESOURCES.iter().find(|(version, of, _, _)| *version == api_version && of == plural)?.1;
        let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(key, value)| (key.to_owned(), decoded(value))).collect();
        Some(Self { plural, namespace, name, is_status, query })
    }

    fn is(&self, key: &str) -> bool {
        self.query.get(key).is_some_and(|value| value == "true" || value == "1")
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.query.get(key)?.parse().ok()
    }

    /// Namespace and selector.
    fn place(&self) -> String {
        let selectors = ["fieldSelector", "labelSelector"].into_iter().filter_map(|key| self.query.get(key));
        let parts = self.namespace.iter().chain(selectors).map(String::as_str);
        let all = if self.namespace.is_none() { Some("*") } else { None };
        all.into_iter().chain(parts).collect::<Vec<_>>().join(" ")
    }

    fn wants_object(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let by_name = self.query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
        // Of labels only what is used: `LABEL in (A,B)`.
        let by_label = self.query.get("labelSelector").map(|selector| {
            let (label, values) = selector.split_once(" in (").expect("the form of label selectors that this knows");
            values.trim_end_matches(')').split(',').any(|value| metadata["labels"][label] == *value)
        });
        self.namespace.as_deref().is_none_or(|own| metadata["namespace"] == *own)
            && by_name.is_none_or(|own| metadata["name"] == *own)
            && by_label.unwrap_or(true)
    }
}

/// A value of a query without its escapes.
fn decoded(value: &str) -> String {
    let value = value.replace('+', " ");
    let mut parts = value.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match u8::from_str_radix(part.get(..2).unwrap_or_default(), 16) {
        Ok(byte) => text + &char::from(byte).to_string() + &part[2..],
        Err(_) => text + "%" + part,
    })
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    shared.lock().requests += 1;
    if request.uri().path() == "/version" {
        let version = shared.lock().git_version.clone();
        let minor = version.split('.').nth(1).unwrap_or("0").to_owned();
        return Ok(whole(
            200,
            &json!({ "major": "1", "minor": minor, "gitVersion": version, "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }),
        ));
    }
    if request.uri().path().starts_with("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/") {
        let is_removing = shared.lock().is_removing;
        let deleted = is_removing.then_some("2026-01-01T00:00:00Z");
        return Ok(whole(
            200,
            &json!({ "kind": "CustomResourceDefinition", "metadata": { "deletionTimestamp": deleted } }),
        ));
    }
    let Some(target) = Target::parse(request.uri()) else { return Ok(failure(404, None)) };
    if request.method() != Method::GET {
        return Ok(write(&shared, &target, request).await);
    }
    if let Some(name) = &target.name {
        let key = (target.namespace.clone().unwrap_or_default(), name.clone());
        let found = {
            let mut state = shared.lock();
            let resource = state.resource(target.plural);
            if resource.forbidden {
                return Ok(failure(403, None));
            }
            resource.objects.get(&key).cloned()
        };
        return Ok(found.map_or_else(|| failure(404, None), |object| whole(200, &object)));
    }
    let asked = match (target.is("watch"), target.is("sendInitialEvents")) {
        (false, _) => Asked::Page,
        (true, true) if target.query.get("resourceVersion").is_some_and(|version| version == "0") => Asked::Copy,
        (true, true) => Asked::Stream,
        (true, false) => Asked::Watch,
    };
    let fault = {
        let mut state = shared.lock();
        let no_streaming_lists = state.no_streaming_lists;
        let resource = state.resource(target.plural);
        resource.asked.push(asked);
        resource.asked_where.insert(target.place());
        if resource.removed {
            return Ok(failure(404, None));
        }
        let is_forbidden_there = target.namespace.as_ref().is_some_and(|at| resource.forbidden_in.contains(at));
        if resource.forbidden || is_forbidden_there {
            return Ok(failure(403, None));
        }
        if no_streaming_lists && asked.is_stream() {
            return Ok(failure(422, None));
        }
        resource.take_fault(asked)
    };
    match fault {
        Some(Fault::Answer(code, retry_after)) => return Ok(failure(code, retry_after)),
        Some(Fault::Hang) => std::future::pending().await,
        Some(
            Fault::Stall
            | Fault::Cut
            | Fault::ErrorEvent(_)
            | Fault::Slow(_)
            | Fault::PutMeanwhile(..)
            | Fault::EndAtMark,
        )
        | None => {}
    }
    let (sender, receiver) = mpsc::channel(1);
    match asked {
        Asked::Page => match page(&shared, &target) {
            Ok((head, items, tail)) => drop(tokio::spawn(send_page(sender, fault, head, items, tail))),
            Err(code) => return Ok(failure(code, None)),
        },
        Asked::Stream | Asked::Copy | Asked::Watch => {
            let too_large = target.number("resourceVersion").is_some_and(|version| version > shared.lock().version);
            if too_large {
                return Ok(failure(504, None));
            }
            let watch = Watch { changed: shared.changed.subscribe(), shared: Arc::clone(&shared), target, sender };
            drop(tokio::spawn(watch.run(asked, fault)));
        }
    }
    Ok(streamed(receiver))
}

/// The parts of a page of a list: everything before the items, the items, everything behind them.
fn page(shared: &Shared, target: &Target) -> Result<(String, Vec<String>, &'static str), u16> {
    let mut state = shared.lock();
    let now = state.version;
    let resource = state.resource(target.plural);
    // A token is the version of the list and the number of objects that came before.
    let (version, skip) = match target.query.get("continue") {
        Some(token) => {
            token.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))).ok_or(400_u16)?
        }
        None => (now, 0),
    };
    if version < resource.compacted {
        return Err(410);
    }
    let limit = target.number("limit").map_or(usize::MAX, |limit| limit as usize);
    let mut wanted = resource.objects.iter().filter(|(_, object)| target.wants_object(object)).skip(skip);
    let items: Vec<String> = wanted.by_ref().take(limit).map(|(_, object)| object.to_string()).collect();
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if wanted.next().is_some() {
        metadata["continue"] = format!("{version}.{}", skip + items.len()).into();
    }
    let (kind, api_version) = (resource.kind, resource.api_version);
    let head = format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
    Ok((head, items, "]}\n"))
}

async fn send_page(sender: Sender, fault: Option<Fault>, head: String, items: Vec<String>, tail: &'static str) {
    let count = items.len();
    let mut ok = sender.send(Ok(head.into())).await.is_ok();
    if matches!(fault, Some(Fault::Stall)) {
        return std::future::pending().await;
    }
    for (number, item) in items.into_iter().enumerate() {
        if matches!(fault, Some(Fault::Cut)) && number >= count / 2 {
            let _ = sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
            return;
        }
        if let Some(Fault::Slow(pause)) = fault {
            tokio::time::sleep(pause).await;
        }
        let comma = if number == 0 { "" } else { "," };
        ok = ok && sender.send(Ok(format!("{comma}{item}").into())).await.is_ok();
    }
    if ok {
        let _ = sender.send(Ok(tail.into())).await;
    }
}

/// A running watch.
struct Watch {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    target: Target,
    sender: Sender,
}

/// Counts a watch as running.
struct Running {
    shared: Arc<Shared>,
    plural: &'static str,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().resource(self.plural).running -= 1;
    }
}

impl Watch {
    async fn run(mut self, asked: Asked, fault: Option<Fault>) {
        let deadline = Instant::now() + Duration::from_secs(self.target.number("timeoutSeconds").unwrap_or(290));
        match fault {
            Some(Fault::Stall) => return std::future::pending().await,
            Some(Fault::Cut) if asked == Asked::Watch => {
                let _ = self.sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                return;
            }
            Some(Fault::ErrorEvent(code)) => {
                let _ = self.say("ERROR", &status(code, None)).await;
                return;
            }
            Some(
                Fault::Cut
                | Fault::Slow(_)
                | Fault::Answer(..)
                | Fault::Hang
                | Fault::PutMeanwhile(..)
                | Fault::EndAtMark,
            )
            | None => {}
        }
        let _running;
        let (mut cursor, interruptions, initial) = {
            let mut state = self.shared.lock();
            let now = state.version;
            let resource = state.resource(self.target.plural);
            let from = self.target.number("resourceVersion").filter(|version| *version > 0 && asked == Asked::Watch);
            let is_expired = from.is_some_and(|from| from < resource.compacted);
            let objects: Vec<Value> = match from {
                Some(_) => Vec::new(),
                None => resource.objects.values().filter(|object| self.target.wants_object(object)).cloned().collect(),
            };
            let initial = if is_expired { Err(410) } else { Ok(objects) };
            let seen = resource.interruptions.len() - std::mem::take(&mut resource.unmet);
            resource.running += 1;
            _running = Running { shared: Arc::clone(&self.shared), plural: self.target.plural };
            (from.unwrap_or(now), seen, initial)
        };
        let objects = match initial {
            Ok(objects) => objects,
            Err(code) => {
                let _ = self.say("ERROR", &status(code, None)).await;
                return;
            }
        };
        let count = objects.len();
        for (number, object) in objects.iter().enumerate() {
            if matches!(fault, Some(Fault::Cut)) && number >= count / 2 {
                let _ = self.sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                return;
            }
            if let Some(Fault::Slow(pause)) = fault {
                tokio::time::sleep(pause).await;
            }
            // A real server ends a list, too, when its time is over.
            if Instant::now() > deadline || !self.say("ADDED", object).await {
                return;
            }
        }
        if let Some(Fault::PutMeanwhile(plural, object)) = &fault {
            self.shared.change(|state| state.put(plural, Value::clone(object)));
        }
        if asked.is_stream() && !self.bookmark(cursor, true).await {
            return;
        }
        if matches!(fault, Some(Fault::EndAtMark)) {
            return;
        }
        let mut is_marked = false;
        loop {
            let (events, delivery, interruption) = self.news(&mut cursor, interruptions);
            for event in in_order(events, delivery) {
                if !self.say(event.0, &event.1).await {
                    return;
                }
            }
            match interruption {
                Some(Some(code)) => {
                    let _ = self.say("ERROR", &status(code, None)).await;
                    return;
                }
                Some(None) => {
                    let _ = self.sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                    return;
                }
                None => {}
            }
            // A real server marks the version about two seconds before it ends a watch.
            let mark = deadline
                .checked_sub(Duration::from_secs(2))
                .filter(|_| !is_marked && self.target.is("allowWatchBookmarks"));
            let until = mark.unwrap_or(deadline);
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until.into()) => {
                    if delivery == Delivery::Stalled {
                        return std::future::pending().await;
                    }
                    if mark.is_none() {
                        return;
                    }
                    is_marked = true;
                    let now = self.shared.lock().version;
                    if !self.bookmark(now, false).await {
                        return;
                    }
                }
                () = self.sender.closed() => return,
            }
        }
    }

    /// What has happened since, how it is delivered, and whether the watch ends.
    fn news(&self, cursor: &mut u64, seen: usize) -> (Vec<(&'static str, Value)>, Delivery, Option<Option<u16>>) {
        let mut state = self.shared.lock();
        let now = state.version;
        let resource = state.resource(self.target.plural);
        let new =
            resource.log.iter().filter(|(version, _, object)| *version > *cursor && self.target.wants_object(object));
        let events = new.map(|(_, kind, object)| (*kind, object.clone())).collect();
        if resource.delivery != Delivery::Stalled {
            *cursor = now.max(*cursor);
        }
        (events, resource.delivery, resource.interruptions.get(seen).copied())
    }

    async fn say(&self, kind: &str, object: &Value) -> bool {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.sender.send(Ok(line.into())).await.is_ok()
    }

    async fn bookmark(&self, version: u64, is_end: bool) -> bool {
        let (kind, api_version) = {
            let mut state = self.shared.lock();
            let resource = state.resource(self.target.plural);
            (resource.kind, resource.api_version)
        };
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if is_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        self.say("BOOKMARK", &object).await
    }
}

fn in_order(mut events: Vec<(&'static str, Value)>, delivery: Delivery) -> Vec<(&'static str, Value)> {
    match delivery {
        Delivery::Whole => events,
        Delivery::Stalled | Delivery::Lossy => Vec::new(),
        Delivery::Twice => events.into_iter().flat_map(|event| [event.clone(), event]).collect(),
        Delivery::Reversed => {
            events.reverse();
            events
        }
    }
}

async fn write(shared: &Shared, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let is_merge = request.headers().get("content-type").is_some_and(|kind| kind == "application/merge-patch+json");
    let bytes = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let namespace = target.namespace.clone().unwrap_or_default();
    let key = |name: &str| (namespace.clone(), name.to_owned());
    match (method, &target.name) {
        (Method::DELETE, Some(name)) => match shared.change(|state| state.delete(target.plural, &namespace, name)) {
            Some(_) => whole(200, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })),
            None => failure(404, None),
        },
        (Method::POST | Method::PUT, name) => {
            let Ok(mut object) = serde_json::from_slice::<Value>(&bytes) else { return failure(400, None) };
            object["metadata"]["namespace"] = namespace.clone().into();
            shared.change(|state| {
                let own = text(&object["metadata"]["name"]);
                let known = state.resource(target.plural).objects.get(&key(&own)).cloned();
                match (name, known) {
                    (None, Some(_)) => failure(409, None),
                    (Some(_), None) => failure(404, None),
                    (Some(_), Some(known)) => {
                        let stated = &object["metadata"]["resourceVersion"];
                        if stated.is_string() && *stated != known["metadata"]["resourceVersion"] {
                            return failure(409, None);
                        }
                        whole(200, &state.put(target.plural, object))
                    }
                    (None, None) => whole(201, &state.put(target.plural, object)),
                }
            })
        }
        // A merge of whole lists, unless the object is another one by now.
        (Method::PATCH, Some(name)) if target.is_status && is_merge => {
            let Ok(mut patch) = serde_json::from_slice::<Value>(&bytes) else { return failure(400, None) };
            shared.change(|state| {
                let known = state.resource(target.plural).objects.get(&key(name)).cloned();
                let Some(mut object) = known else { return failure(404, None) };
                let differs = |field: &str| {
                    let stated = &patch["metadata"][field];
                    stated.is_string() && *stated != object["metadata"][field]
                };
                if differs("uid") || differs("resourceVersion") {
                    return failure(409, None);
                }
                object["status"] = patch["status"].take();
                whole(200, &state.put(target.plural, object))
            })
        }
        // Server-side apply of one manager, which owns the whole status.
        (Method::PATCH, Some(name)) if target.is_status => {
            let Ok(mut applied) = serde_json::from_slice::<Value>(&bytes) else { return failure(400, None) };
            let manager = target.query.get("fieldManager").map(|name| name.replace("%3A", ":"));
            shared.change(|state| {
                let known = state.resource(target.plural).objects.get(&key(name)).cloned();
                let Some(mut object) = known else { return failure(404, None) };
                object["status"] = applied["status"].take();
                object["metadata"]["managedFields"] =
                    json!([{ "manager": manager, "operation": "Apply", "subresource": "status" }]);
                whole(200, &state.put(target.plural, object))
            })
        }
        _ => failure(405, None),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn status(code: u16, retry_after: Option<u32>) -> Value {
    let (reason, message) = match code {
        403 => ("Forbidden", "User \"test\" cannot watch the resource"),
        404 => ("NotFound", "the server could not find the requested resource"),
        409 => ("Conflict", "the object has been modified; please apply your changes to the latest version"),
        410 => ("Expired", "too old resource version"),
        422 => ("Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"),
        429 => ("TooManyRequests", "too many requests, please try again later"),
        504 => ("Timeout", "Too large resource version"),
        _ => ("InternalError", "an error on the server has prevented the request from succeeding"),
    };
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}, "message": message,
        "reason": reason, "code": code, "details": { "retryAfterSeconds": retry_after.unwrap_or(0) } })
}

fn failure(code: u16, retry_after: Option<u32>) -> Response<Body> {
    let mut response = whole(code, &status(code, retry_after));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

fn whole(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    let response = Response::builder().status(StatusCode::from_u16(code).unwrap());
    response.header("content-type", "application/json").body(body).unwrap()
}

fn streamed(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Response<Body> {
    let next = |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async move {
        let bytes = receiver.recv().await?;
        Some((bytes.map(Frame::data), receiver))
    };
    let body = StreamBody::new(futures_util::stream::unfold(receiver, next)).boxed_unsync();
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}
