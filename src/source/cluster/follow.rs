//! One watch that is kept alive.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Error};
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::index::{Change, Event};
use super::object;
use super::witness::Witness;
use crate::kinds::KindId;
use crate::model::ids::ObjectName;
use crate::source::stored::StoredRoute;

/// The first pause after a failure; it doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a kind is asked for that is not served or may not be read, and is not needed.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(30);

/// Failures in a row after which a watch is built anew, with a new list.
const REBUILD_AFTER: u32 = 3;

/// Objects of a page of a list.
const PAGE: u32 = 500;

/// Objects of one kind, in all namespaces or one.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) kind: KindId,
    pub(super) namespace: Option<String>,
}

/// Why a watch failed, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The API server refuses these credentials.
    Forbidden,
    /// The API server does not serve the kind.
    NotServed,
    /// What was known of the state is too old: a new list is needed.
    Expired,
    /// The API server answers with another error.
    Refused,
    /// There is no whole answer.
    Broken,
}

/// Where a watch stands.
struct Progress {
    /// Lists as streams, which need the least memory on both sides; until the API server turns out not to know them.
    streams: bool,
    /// Which of the versions of the kind is asked for.
    version: usize,
    /// There was a whole list once.
    listed: bool,
    /// Failures since the last success.
    failures: u32,
    /// What was logged last, while it lasts.
    told: Option<Failure>,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let code = match error {
            Error::InitialListFailed(kube::Error::Api(status))
            | Error::WatchStartFailed(kube::Error::Api(status))
            | Error::WatchFailed(kube::Error::Api(status)) => status.code,
            Error::WatchError(status) => status.code,
            Error::InitialListFailed(_)
            | Error::WatchStartFailed(_)
            | Error::WatchFailed(_)
            | Error::NoResourceVersion => 0,
        };
        match code {
            401 | 403 => Self::Forbidden,
            404 => Self::NotServed,
            410 => Self::Expired,
            // Of an API server that lags behind the state that was seen: "Too large resource version".
            504 => Self::Expired,
            0 | 429 => Self::Broken,
            _ => Self::Refused,
        }
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
    }
}

/// Whether nothing is served before the kind was listed. Without the others, what they would permit is refused.
const fn is_needed(kind: KindId) -> bool {
    match kind {
        KindId::GatewayRoute | KindId::Service | KindId::EndpointSlice => true,
        KindId::Endpoints | KindId::Namespace | KindId::ReferenceGrant => false,
    }
}

/// The pause after so many failures in a row, without jitter.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

/// What the status needs of the object of an event.
fn seen(witness: &Witness, event: &watcher::Event<DynamicObject>) -> Option<StoredRoute> {
    match event {
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            Some(witness.read(&serde_json::to_value(object).unwrap_or_default()))
        }
        watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_) => None,
    }
}

async fn tell(witness: &mut Witness, event: &Event, seen: Option<StoredRoute>) {
    let problem = |object: &Result<_, String>| object.as_ref().err().cloned();
    match (event, seen) {
        (Event::Init, _) => witness.begins(),
        (Event::InitApply(name, object), Some(seen)) => witness.listed(name, seen, problem(object).as_deref()),
        (Event::InitDone, _) => witness.ends().await,
        (Event::Apply(name, object), Some(seen)) => witness.applied(name, seen, problem(object).as_deref()).await,
        (Event::Delete(name), _) => witness.gone(name).await,
        (Event::InitApply(..) | Event::Apply(..), None) | (Event::Unavailable, _) => {}
    }
}

impl Watch {
    /// Tells the index what the API server says, for as long as it listens.
    pub(super) async fn follow(
        self,
        client: Client,
        number: usize,
        changes: mpsc::Sender<Change>,
        mut witness: Option<Witness>,
    ) {
        let mut progress = Progress { streams: true, version: 0, listed: false, failures: 0, told: None };
        loop {
            let mut stream = pin!(watcher::watcher(self.api(&client, progress.version), self.config(progress.streams)));
            loop {
                let Some(next) = stream.next().await else { break };
                let (event, failure) = match next {
                    Ok(event) => {
                        let seen = witness.as_ref().and_then(|witness| seen(witness, &event));
                        let event = self.event(event, &mut progress);
                        if let Some(witness) = &mut witness {
                            tell(witness, &event, seen).await;
                        }
                        (Some(event), None)
                    }
                    Err(error) => {
                        let failure = Failure::of(&error);
                        self.complain(failure, &error, &mut progress);
                        let is_unavailable = matches!(failure, Failure::Forbidden | Failure::NotServed);
                        // Another version of the kind may be served.
                        let is_last = progress.failures as usize + 1 >= self.kind.api_versions().len();
                        let is_done = is_unavailable && is_last && !is_needed(self.kind);
                        let event = is_done.then_some(Event::Unavailable);
                        (event, Some(failure))
                    }
                };
                if let Some(event) = event
                    && changes.send(Change { watch: number, event }).await.is_err()
                {
                    return;
                }
                if let Some(failure) = failure
                    && self.rest(failure, &mut progress).await
                {
                    break;
                }
            }
        }
    }

    fn api(&self, client: &Client, version: usize) -> Api<DynamicObject> {
        let versions = self.kind.api_versions();
        let api_version = versions[version % versions.len()];
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, self.kind.name());
        let resource = ApiResource::from_gvk_with_plural(&kind, plural(self.kind));
        match &self.namespace {
            Some(namespace) if self.kind.is_namespaced() => Api::namespaced_with(client.clone(), namespace, &resource),
            Some(_) | None => Api::all_with(client.clone(), &resource),
        }
    }

    fn config(&self, streams: bool) -> watcher::Config {
        // Not all watches end at the same moment; and a connection that has died without a word is noticed soon.
        let config = watcher::Config::default().timeout(fastrand::u32(25..=35));
        let config = if streams { config.streaming_lists() } else { config.page_size(PAGE) };
        match &self.namespace {
            Some(namespace) if !self.kind.is_namespaced() => config.fields(&format!("metadata.name={namespace}")),
            Some(_) | None => config,
        }
    }

    fn event(&self, event: watcher::Event<DynamicObject>, progress: &mut Progress) -> Event {
        // A list that only begins may still be refused.
        if !matches!(event, watcher::Event::Init) {
            progress.failures = 0;
            if progress.told.take().is_some() {
                tracing::info!("{self}: read again");
            }
        }
        match event {
            watcher::Event::Init => Event::Init,
            watcher::Event::InitDone => {
                progress.listed = true;
                Event::InitDone
            }
            watcher::Event::InitApply(object) => {
                let (name, object) = object::read(self.kind, object);
                Event::InitApply(name, object)
            }
            watcher::Event::Apply(object) => {
                let (name, object) = object::read(self.kind, object);
                Event::Apply(name, object)
            }
            watcher::Event::Delete(object) => {
                let metadata = object.metadata;
                Event::Delete(ObjectName::new(
                    metadata.namespace.as_deref().unwrap_or_default(),
                    metadata.name.as_deref().unwrap_or_default(),
                ))
            }
        }
    }

    /// Logs a failure once for as long as it lasts.
    fn complain(&self, failure: Failure, error: &Error, progress: &mut Progress) {
        // An end of what the API server remembers is part of its work, and a single failure is nothing either.
        let is_silent = failure == Failure::Expired || (failure == Failure::Broken && progress.failures == 0);
        if is_silent || progress.told.replace(failure) == Some(failure) {
            return;
        }
        let effect = if is_needed(self.kind) {
            "what was read before stays active"
        } else {
            "what needs it is refused, the rest is served"
        };
        match failure {
            Failure::Forbidden => {
                tracing::error!(
                    "{self}: may not be listed and watched: {error}; expected a role with list and watch; {effect}"
                );
            }
            Failure::NotServed if self.kind == KindId::ReferenceGrant => {
                tracing::info!(
                    "{self}: the API server does not serve this kind: no reference between namespaces is granted"
                );
            }
            Failure::NotServed => {
                tracing::error!(
                    "{self}: the API server does not serve this kind; expected its CustomResourceDefinition, which \
                     `tidegate crd` prints; {effect}"
                );
            }
            Failure::Expired | Failure::Refused | Failure::Broken => {
                tracing::warn!("{self}: the watch failed: {error}; {effect}; trying again");
            }
        }
    }

    /// Waits after a failure; whether the watch is to be built anew.
    async fn rest(&self, failure: Failure, progress: &mut Progress) -> bool {
        progress.failures = progress.failures.saturating_add(1);
        let is_unavailable = matches!(failure, Failure::Forbidden | Failure::NotServed);
        if failure == Failure::NotServed {
            progress.version += 1;
        }
        let versions = self.kind.api_versions().len();
        let longest = if is_unavailable && !is_needed(self.kind) && progress.failures as usize > versions {
            UNAVAILABLE_PAUSE
        } else {
            pause(progress.failures)
        };
        tokio::time::sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        if progress.failures.is_multiple_of(REBUILD_AFTER) && failure == Failure::Refused && !progress.listed {
            // An API server that does not stream lists refuses them for ever.
            progress.streams = false;
        }
        is_unavailable || failure == Failure::Expired || progress.failures.is_multiple_of(REBUILD_AFTER)
    }
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> Error {
        let status = serde_json::json!({ "status": "Failure", "message": "no", "reason": "", "code": code });
        Error::WatchError(Box::new(serde_json::from_value(status).expect("a status")))
    }

    #[test]
    fn failures_are_told_apart_by_their_code() {
        for (code, failure) in [
            (401, Failure::Forbidden),
            (403, Failure::Forbidden),
            (404, Failure::NotServed),
            (410, Failure::Expired),
            (504, Failure::Expired),
            (500, Failure::Refused),
            (422, Failure::Refused),
            (429, Failure::Broken),
        ] {
            assert_eq!(Failure::of(&refused(code)), failure, "{code}");
        }
        assert_eq!(Failure::of(&Error::NoResourceVersion), Failure::Broken);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), 2 * FIRST_PAUSE);
        assert_eq!([pause(4), pause(u32::MAX)], [LONGEST_PAUSE; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_of_lists_are_given_up_after_three_refusals_and_for_nothing_else() {
        let watch = Watch { kind: KindId::Service, namespace: None };
        let new = || Progress { streams: true, version: 0, listed: false, failures: 0, told: None };
        let mut progress = new();
        let mut rebuilt = Vec::new();
        for _ in 0..3 {
            rebuilt.push(watch.rest(Failure::Refused, &mut progress).await);
        }
        assert_eq!((rebuilt, progress.streams), (vec![false, false, true], false));
        for (failure, listed) in [(Failure::Forbidden, false), (Failure::Broken, false), (Failure::Refused, true)] {
            let mut progress = Progress { listed, ..new() };
            for _ in 0..3 {
                watch.rest(failure, &mut progress).await;
            }
            assert!(progress.streams, "{failure:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_version_of_a_kind_is_tried_when_one_is_not_served() {
        let watch = Watch { kind: KindId::ReferenceGrant, namespace: None };
        let mut progress = Progress { streams: true, version: 0, listed: false, failures: 0, told: None };
        assert!(watch.rest(Failure::NotServed, &mut progress).await);
        assert_eq!(progress.version, 1);
    }
}
