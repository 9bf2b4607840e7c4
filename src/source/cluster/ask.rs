//! What is asked about a kind: a list, in pages or as a stream that goes on as a watch, and a watch from a version.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::Client;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Resource as _, WatchEvent, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::failure::{Failure, Verb};
use super::selection::Selectors;
use crate::kinds::KindId;
use crate::kubernetes::ByteCount;
use crate::telemetry::metrics::{Restart, WatchCells};

/// Objects of a page of a list.
const PAGE: u32 = 500;

/// How many times longer than the beginning of an answer a whole page may take.
const WHOLE_PAGE: u32 = 4;

/// How long the list may take with which a stream begins. Silence ends it sooner.
const WHOLE_LIST_SECONDS: u32 = 300;

/// How recent a list has to be that comes as a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// What there was when it was asked for: the API server asks its storage, and waits until its own copy is as new.
    Latest,
    /// What the API server has in memory, which it follows its storage with. What it does not know yet comes as events
    /// behind the list.
    Copy,
}

impl Freshness {
    /// The version that a request states.
    const fn version(self) -> &'static str {
        match self {
            Self::Latest => "",
            Self::Copy => "0",
        }
    }
}

/// Where the objects of one kind are, in all namespaces or in one.
pub(super) struct Ask {
    client: Client,
    request: Request,
    selectors: Selectors,
    /// Where is counted what comes.
    cells: Arc<WatchCells>,
    /// How long the API server may take to begin an answer.
    silence: Duration,
}

/// A page of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    /// The objects; a list of none may have `null`.
    pub(super) items: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    token: Option<String>,
}

impl Page {
    /// The version of the list.
    pub(super) fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone().filter(|version| !version.is_empty())
    }

    /// What to ask for to get the next page; `None` behind the last one.
    pub(super) fn next(&self) -> Option<String> {
        self.metadata.token.clone().filter(|token| !token.is_empty())
    }
}

/// The plural under which the API server has a kind.
const fn plural(kind: KindId) -> &'static str {
    match kind {
        KindId::GatewayRoute => "gatewayroutes",
        KindId::Service => "services",
        KindId::EndpointSlice => "endpointslices",
        KindId::Endpoints => "endpoints",
        KindId::Namespace => "namespaces",
        KindId::ReferenceGrant => "referencegrants",
        KindId::Secret => "secrets",
        KindId::ConfigMap => "configmaps",
        KindId::BackendTlsPolicy => "backendtlspolicies",
    }
}

impl Ask {
    /// For one of the versions of a kind, in one namespace or all, and only for those that the selectors fit.
    pub(super) fn new(
        (client, cells): (Client, Arc<WatchCells>),
        kind: KindId,
        version: usize,
        (namespace, mut selectors): (Option<&str>, Selectors),
        silence: Duration,
    ) -> Self {
        let versions = kind.api_versions();
        let api_version = versions[version % versions.len()];
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let named = GroupVersionKind::gvk(group, version, kind.name());
        let resource = ApiResource::from_gvk_with_plural(&named, plural(kind));
        let within = namespace.filter(|_| kind.is_namespaced());
        let request = Request::new(DynamicObject::url_path(&resource, within));
        // Of Namespaces themselves, the one.
        let own = namespace.filter(|_| !kind.is_namespaced()).map(|namespace| format!("metadata.name={namespace}"));
        selectors.fields = own.or(selectors.fields);
        Self { client, request, selectors, cells, silence }
    }

    /// One page of a list.
    pub(super) async fn page(&self, token: Option<String>) -> Result<Page, Failure> {
        let params = ListParams {
            limit: Some(PAGE),
            continue_token: token,
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.clone(),
            ..ListParams::default()
        };
        let request = self.request.list(&params).map_err(|error| broken(Verb::List, error))?;
        let request = self.counted(request);
        let longest = self.silence * WHOLE_PAGE;
        match tokio::time::timeout(longest, self.client.request::<Page>(request)).await {
            Ok(Ok(page)) => {
                self.cells.received(page.items.as_ref().map_or(0, Vec::len));
                Ok(page)
            }
            Ok(Err(error)) => Err(Failure::of(Verb::List, &error)),
            Err(_) => Err(Failure::new(Restart::Silent, Verb::List, format!("no whole page within {longest:?}"))),
        }
    }

    /// A list as a stream: every object as an event, at their end a bookmark that says so, and then what happens, for so many
    /// seconds at least.
    pub(super) async fn list_stream(&self, freshness: Freshness, seconds: u32) -> Result<Events, Failure> {
        // How long the list takes is known when it is whole, and the API server has to be told before. So it is told the
        // longest time, and whoever follows the stream leaves it.
        let timeout = Some(WHOLE_LIST_SECONDS + seconds);
        let params = WatchParams { send_initial_events: true, timeout, ..WatchParams::default() };
        self.events(Verb::List, params, freshness.version()).await
    }

    /// What has happened since a version, for so many seconds.
    pub(super) async fn watch(&self, version: &str, seconds: u32) -> Result<Events, Failure> {
        self.events(Verb::Watch, WatchParams { timeout: Some(seconds), ..WatchParams::default() }, version).await
    }

    /// Whether the definition of the kind is being removed, or is gone: then its objects are deleted one by one, and
    /// nobody wants that of each. One that may not be read is taken to stay.
    pub(super) async fn is_removed(&self, kind: KindId) -> bool {
        let group = kind.api_versions()[0].split('/').next().unwrap_or_default();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}.{group}", plural(kind));
        let Ok(request) = http::Request::get(path).body(Vec::new()) else { return false };
        let answer = tokio::time::timeout(self.silence, self.client.request::<Value>(request)).await;
        match answer {
            Ok(Ok(definition)) => definition["metadata"]["deletionTimestamp"].is_string(),
            Ok(Err(kube::Error::Api(status))) => status.code == 404,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn events(&self, verb: Verb, mut params: WatchParams, version: &str) -> Result<Events, Failure> {
        params.field_selector.clone_from(&self.selectors.fields);
        params.label_selector.clone_from(&self.selectors.labels);
        let request = self.request.watch(&params, version).map_err(|error| broken(verb, error))?;
        let request = self.counted(request);
        let began = Instant::now();
        match tokio::time::timeout(self.silence, self.client.request_events::<Value>(request)).await {
            Ok(Ok(events)) => Ok(Events { verb, stream: events.boxed(), cells: Arc::clone(&self.cells), began }),
            Ok(Err(error)) => Err(Failure::of(verb, &error)),
            Err(_) => Err(Failure::new(Restart::Silent, verb, format!("no answer within {:?}", self.silence))),
        }
    }

    /// A request the bytes of whose answer are counted.
    fn counted<T>(&self, mut request: http::Request<T>) -> http::Request<T> {
        request.extensions_mut().insert(ByteCount(self.cells.bytes()));
        request
    }
}

/// What a watch says, event by event.
pub(super) struct Events {
    verb: Verb,
    stream: BoxStream<'static, kube::Result<WatchEvent<Value>>>,
    cells: Arc<WatchCells>,
    /// When the request was sent.
    pub(super) began: Instant,
}

impl Events {
    /// The list that it began with is whole: what comes now is a watch, which begins here.
    pub(super) fn into_watch(self) -> Self {
        Self { verb: Verb::Watch, began: Instant::now(), ..self }
    }

    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<WatchEvent<Value>>, Failure> {
        match self.stream.next().await {
            None => Ok(None),
            Some(Ok(WatchEvent::Error(status))) => Err(Failure::of_status(self.verb, &status)),
            Some(Ok(event)) => {
                self.cells.received(1);
                Ok(Some(event))
            }
            Some(Err(error)) => Err(Failure::of(self.verb, &error)),
        }
    }
}

fn broken(verb: Verb, error: impl std::fmt::Display) -> Failure {
    Failure::new(Restart::Broken, verb, error.to_string())
}
