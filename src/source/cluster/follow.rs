//! One kind, followed for as long as the process lives: a list, and one short watch after the other.
//!
//! A list comes as a stream, which goes on as the first watch, so that a kind takes one request to begin. Where the API
//! server does not stream lists they come in pages, and the first watch is a request of its own.
//!
//! Whatever the API server does, the index keeps what it has until a list is whole. A watch lasts half a minute, so that
//! a connection that has died without a word is noticed soon; one that says nothing at all is given up and asked for
//! again; and now and then there is a new list, which repairs what a watch has lost.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ask::{Ask, Events, Freshness};
use super::cache::Journal;
use super::failure::{Failure, Verb};
use super::index::{Change, Event};
use super::needed::is_needed;
use super::object::{self, Namespaces};
use super::selection::{Selection, Selectors, Wanted};
use super::witness::Witness;
use crate::kinds::KindId;
use crate::model::ids::ObjectName;
use crate::telemetry::metrics::{Following, Restart, WatchCells};

/// How often a kind is asked for that may not be read, and is not needed; and our own, as long as it is not served.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(30);

/// For how long a missing right is asked for as often as anything else: an API server that has just begun refuses for a moment
/// what its roles allow.
const RIGHTS_SETTLE: Duration = Duration::from_secs(60);

/// Over how long those who ask spread when the API server has too much to do, the first time. Each further time in a row it
/// is twice as long, up to [`Timing::spread`]: one that has just begun turns requests away for a moment, too.
const FIRST_SPREAD: Duration = Duration::from_secs(4);

/// The longest pause that an API server may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Failures in a row after which there is a new list.
const LIST_AFTER: u32 = 3;

/// A watch that ends sooner, without a word, is no watch: something cuts it.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// How long a definition that is not being removed is taken to stay: many objects may be deleted one after the other.
const DEFINITION_HOLDS: Duration = Duration::from_millis(50);

/// How long things take. Only tests need others than the default.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Seconds of one watch, and of what is followed of a stream behind its list. Not all watches end at the same moment.
    pub watch_seconds: RangeInclusive<u32>,
    /// After how long there is a new list, give or take a fifth.
    pub relist: Duration,
    /// The first pause after a failure; it doubles up to the longest one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How often a kind of somebody else is asked for that the API server does not serve, and that is not needed.
    pub not_served_pause: Duration,
    /// How much longer than its time a watch may last.
    pub grace: Duration,
    /// How long an API server may take to begin an answer, and to go on with a list.
    pub silence: Duration,
    /// How long objects stay that a list lacks suspiciously many of.
    pub removals_held: Duration,
    /// How long an API server that does not answer is waited for before what is kept in files serves.
    pub cache_after: Duration,
    /// Over how long, at most, those who ask spread when the API server has too much to do, where there are thousands of
    /// them.
    pub spread: Duration,
    /// Ask whether the definition of routes is being removed when routes go.
    pub asks_for_definition: bool,
    /// Begin with what the API server has in memory, which may be a moment old. To be sure that it is not, an API server asks
    /// its storage for each list: of thousands that begin together, that is a fifth of what they cost it.
    pub begins_with_copy: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch_seconds: 25..=35,
            relist: Duration::from_secs(600),
            first_pause: Duration::from_millis(800),
            longest_pause: Duration::from_secs(5),
            not_served_pause: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            removals_held: Duration::from_secs(60),
            cache_after: Duration::from_secs(10),
            spread: Duration::ZERO,
            asks_for_definition: true,
            begins_with_copy: false,
        }
    }
}

/// Objects of one kind, in all namespaces or one.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) kind: KindId,
    pub(super) namespace: Option<String>,
    /// Only those that a field selector fits.
    pub(super) selector: Option<String>,
    /// Only those that somebody wants, which may become others.
    pub(super) wanted: Option<watch::Receiver<Wanted>>,
    /// Nothing is served before they were listed.
    pub(super) is_needed: bool,
}

impl Watch {
    /// What a gateway reads of a kind, as far as a field selector fits.
    pub(super) fn new(kind: KindId, namespace: Option<String>, selector: Option<String>) -> Self {
        Self { kind, namespace, selector, wanted: None, is_needed: is_needed(kind) }
    }
}

/// Why there is nothing more to do for now.
enum Stop {
    Failed(Failure),
    /// Nobody listens any more.
    Ended,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Who ends a watch when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedBy {
    /// The API server, or it has died.
    Server,
    /// We leave it: it began with a list, whose time the API server adds.
    Us,
}

/// Tells the index what happens, under the number of the watch; and whoever writes status, if it is about routes.
pub(super) struct Teller {
    pub(super) number: usize,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) witness: Option<Witness>,
    /// Where objects are kept for a restart, if they are.
    pub(super) journal: Option<Journal>,
    /// What names of objects have in common.
    pub(super) namespaces: Namespaces,
}

impl Teller {
    async fn tell(&self, event: Event) -> Result<(), Stop> {
        self.changes.send(Change { watch: self.number, event }).await.map_err(|_| Stop::Ended)
    }

    async fn list_begins(&mut self) -> Result<(), Stop> {
        if let Some(witness) = &mut self.witness {
            witness.begins();
        }
        if let Some(journal) = &mut self.journal {
            journal.begin();
        }
        self.namespaces.prune();
        self.tell(Event::Init).await
    }

    async fn listed(&mut self, kind: KindId, object: Value) -> Result<(), Stop> {
        if let Some(journal) = &mut self.journal {
            journal.put(&object);
        }
        let seen = self.witness.as_ref().map(|witness| witness.read(&object));
        let (mut name, object) = object::read(kind, object);
        self.namespaces.share(&mut name);
        if let (Some(witness), Some(seen)) = (&mut self.witness, seen) {
            witness.listed(&name, seen, object.as_ref().err().map(String::as_str));
        }
        self.tell(Event::InitApply(name, object)).await
    }

    async fn list_ends(&mut self) -> Result<(), Stop> {
        if let Some(witness) = &mut self.witness {
            witness.ends().await;
        }
        if let Some(journal) = &mut self.journal {
            journal.end();
        }
        self.tell(Event::InitDone).await
    }

    /// Nothing is wanted; what was kept for a restart goes only if it was followed since the start.
    async fn unwanted(&mut self, was_followed: bool) -> Result<(), Stop> {
        if let Some(journal) = self.journal.as_mut().filter(|_| was_followed) {
            journal.begin();
            journal.end();
        }
        self.tell(Event::Unwanted).await
    }

    async fn applied(&mut self, kind: KindId, object: Value) -> Result<(), Stop> {
        if let Some(journal) = &mut self.journal {
            journal.put(&object);
        }
        let seen = self.witness.as_ref().map(|witness| witness.read(&object));
        let (mut name, object) = object::read(kind, object);
        self.namespaces.share(&mut name);
        if let (Some(witness), Some(seen)) = (&self.witness, seen) {
            witness.applied(&name, seen, object.as_ref().err().map(String::as_str)).await;
        }
        self.tell(Event::Apply(name, object)).await
    }

    async fn gone(&mut self, name: ObjectName) -> Result<(), Stop> {
        if let Some(journal) = &mut self.journal {
            journal.delete(&name);
        }
        if let Some(witness) = &self.witness {
            witness.gone(&name).await;
        }
        self.tell(Event::Delete(name)).await
    }
}

/// Follows one kind.
pub(super) struct Follower {
    watch: Watch,
    client: Client,
    index: Teller,
    cells: Arc<WatchCells>,
    timing: Timing,
    /// Which of the versions of the kind is asked for.
    version: usize,
    /// Lists as streams, which need the least memory on both sides; until the API server turns out not to know them.
    streams: bool,
    /// The version of the state that was read; `None` before a list.
    position: Option<String>,
    /// A list was whole: what is read from then on must not be older.
    has_read: bool,
    /// When there is a new list, whatever the watches say.
    relist_at: Instant,
    /// When the definition of the kind was last known to stay.
    definition_seen: Option<Instant>,
    /// Of what, where not of all.
    selection: Option<Selection>,
    /// While there is something to follow.
    following: Option<Following>,
    /// Failures since the last success.
    failures: u32,
    /// Of these, how many in a row say that the version that was asked for is not served.
    not_served: u32,
    /// How many of them say that the API server has too much to do.
    turned_away: u32,
    /// Since when the right is missing.
    forbidden_since: Option<Instant>,
    /// What was logged since the last success: each cause once, in whatever order they come.
    told: Vec<Restart>,
}

impl Follower {
    pub(super) fn new(watch: Watch, client: Client, index: Teller, cells: Arc<WatchCells>, timing: Timing) -> Self {
        let selection = watch.wanted.as_ref().map(|wanted| Selection::new(watch.kind, &wanted.borrow()));
        Self {
            watch,
            client,
            index,
            cells,
            timing,
            version: 0,
            streams: true,
            position: None,
            has_read: false,
            relist_at: Instant::now(),
            definition_seen: None,
            selection,
            following: None,
            failures: 0,
            not_served: 0,
            turned_away: 0,
            forbidden_since: None,
            told: Vec::new(),
        }
    }

    /// Tells the index what the API server says, for as long as it listens.
    pub(super) async fn run(mut self) {
        let mut wanted = self.watch.wanted.clone();
        loop {
            let done = tokio::select! {
                done = self.go_on() => done,
                () = others(&mut wanted) => {
                    self.selection = wanted.as_ref().map(|wanted| Selection::new(self.watch.kind, &wanted.borrow()));
                    self.position = None;
                    if self.index.tell(Event::Selected).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let pause = match done {
                Ok(()) => continue,
                Err(Stop::Ended) => return,
                Err(Stop::Failed(failure)) => {
                    self.complain(&failure);
                    if self.is_removed(&failure).await && self.index.tell(Event::Away).await.is_err() {
                        return;
                    }
                    if let Some(event) = self.gives_up(&failure) {
                        if self.index.tell(event).await.is_err() {
                            return;
                        }
                        self.note_listed();
                    }
                    self.failed(&failure)
                }
            };
            sleep(pause).await;
        }
    }

    /// Reads the whole state, or what has happened since, for the time of one watch.
    async fn go_on(&mut self) -> Result<(), Stop> {
        if self.selection.as_ref().is_some_and(Selection::is_empty) {
            self.index.unwanted(self.following.take().is_some()).await?;
            self.note_listed();
            return std::future::pending().await;
        }
        self.following.get_or_insert_with(|| self.cells.follow());
        let seconds = fastrand::u32(self.timing.watch_seconds.clone());
        match self.position.clone() {
            Some(version) => {
                let events = self.ask().watch(&version, seconds).await?;
                self.follow(events, seconds, EndedBy::Server).await
            }
            None => match self.list(seconds).await? {
                Some(events) => self.follow(events, seconds, EndedBy::Us).await,
                None => Ok(()),
            },
        }
    }

    async fn list_ends(&mut self) -> Result<(), Stop> {
        self.index.list_ends().await?;
        self.note_listed();
        Ok(())
    }

    /// Who waits for what is wanted need not wait any more.
    fn note_listed(&self) {
        if let (Some(wanted), Some(selection)) = (&self.watch.wanted, &self.selection) {
            wanted.borrow().listed(self.watch.kind, selection.number);
        }
    }

    /// Reads the whole state; what happens after it for so many seconds, if the list is a stream.
    async fn list(&mut self, seconds: u32) -> Result<Option<Events>, Stop> {
        let ask = self.ask();
        let (version, events) = if self.streams {
            match self.list_stream(&ask, seconds).await {
                // An API server that does not stream lists refuses them, in ways that differ by its version and storage.
                Err(Stop::Failed(Failure { cause: Restart::Refused, code, says, .. })) => {
                    let version = self.list_pages(&ask).await?;
                    // Its own failure says nothing about the next list.
                    self.streams = code >= 500;
                    let which = if self.streams { "this list came" } else { "lists come" };
                    tracing::info!("{}: {which} in pages, since the API server did not stream it: {says}", self.watch);
                    (version, None)
                }
                done => done.map(|(version, events)| (version, Some(events)))?,
            }
        } else {
            (self.list_pages(&ask).await?, None)
        };
        // Asked anew: what this list lacks may have gone a moment ago, and what comes after it may go in a moment.
        self.definition_seen = None;
        self.check_definition().await?;
        self.definition_seen = None;
        self.list_ends().await?;
        self.position = Some(version);
        self.has_read = true;
        self.relist_at = Instant::now() + self.timing.relist.mul_f64(0.8 + 0.4 * fastrand::f64());
        self.cells.set_available(true);
        self.heard();
        Ok(events.map(Events::into_watch))
    }

    fn ask(&self) -> Ask {
        let Watch { kind, namespace, selector, .. } = &self.watch;
        let mut selectors = Selectors { fields: selector.clone(), labels: None };
        if let Some(selection) = &self.selection {
            selectors = selection.selectors();
        }
        let within = (namespace.as_deref(), selectors);
        let asked = (self.client.clone(), Arc::clone(&self.cells));
        Ask::new(asked, *kind, self.version, within, self.timing.silence)
    }

    async fn list_stream(&mut self, ask: &Ask, seconds: u32) -> Result<(String, Events), Stop> {
        let silence = self.timing.silence;
        let may_be_copy = self.timing.begins_with_copy && !self.has_read;
        let freshness = if may_be_copy { Freshness::Copy } else { Freshness::Latest };
        let mut events = ask.list_stream(freshness, seconds).await?;
        self.index.list_begins().await?;
        loop {
            let silent = |_| Failure::new(Restart::Silent, Verb::List, format!("nothing for {silence:?}"));
            match timeout(silence, events.next()).await.map_err(silent)?? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => self.listed(object).await?,
                Some(WatchEvent::Bookmark(mark)) if mark.metadata.annotations.contains_key(INITIAL_END) => {
                    return Ok((mark.metadata.resource_version, events));
                }
                Some(WatchEvent::Bookmark(_) | WatchEvent::Deleted(_) | WatchEvent::Error(_)) => {}
                None => {
                    return Err(Failure::new(Restart::Broken, Verb::List, "it ended before it was whole").into());
                }
            }
        }
    }

    /// Takes an object of a list, if it is asked for.
    async fn listed(&mut self, object: Value) -> Result<(), Stop> {
        if self.selection.as_ref().is_none_or(|selection| selection.has(&object)) {
            self.index.listed(self.watch.kind, object).await?;
        }
        Ok(())
    }

    async fn list_pages(&mut self, ask: &Ask) -> Result<String, Stop> {
        let mut token = None;
        self.index.list_begins().await?;
        loop {
            let mut page = ask.page(token).await?;
            for object in page.items.take().into_iter().flatten() {
                self.listed(object).await?;
            }
            token = page.next();
            if token.is_none() {
                return page.version().ok_or_else(|| no_version(Verb::List).into());
            }
        }
    }

    /// Follows what happens, for the time of one watch.
    async fn follow(&mut self, mut events: Events, seconds: u32, ended_by: EndedBy) -> Result<(), Stop> {
        let (began, grace) = (events.began, self.timing.grace);
        let mut deadline = Instant::now() + Duration::from_secs(seconds.into());
        if ended_by == EndedBy::Server {
            deadline += grace;
        }
        let mut last = None;
        loop {
            let Ok(next) = timeout_at(deadline, events.next()).await else {
                let is_alive = last.is_some_and(|last: Instant| last.elapsed() < 2 * grace);
                if ended_by == EndedBy::Server && !is_alive {
                    let says = format!("nothing, and no end, after {seconds} seconds");
                    return Err(Failure::new(Restart::Silent, Verb::Watch, says).into());
                }
                break;
            };
            let Some(event) = next? else {
                if last.is_none() && began.elapsed() < SHORTEST_WATCH {
                    return Err(Failure::new(Restart::Broken, Verb::Watch, "it ended as soon as it had begun").into());
                }
                self.heard();
                break;
            };
            self.take(event).await?;
            last = Some(Instant::now());
        }
        if Instant::now() >= self.relist_at {
            self.cells.restarted(Restart::Relist);
            self.position = None;
        }
        Ok(())
    }

    async fn take(&mut self, event: WatchEvent<Value>) -> Result<(), Stop> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.advance(object["metadata"]["resourceVersion"].as_str())?;
                if self.selection.as_ref().is_none_or(|selection| selection.has(&object)) {
                    self.index.applied(self.watch.kind, object).await?;
                } else if self.watch.kind == KindId::EndpointSlice {
                    // It may have been of one of them before.
                    self.index.gone(object::name(&object)).await?;
                }
            }
            WatchEvent::Deleted(object) => {
                self.advance(object["metadata"]["resourceVersion"].as_str())?;
                self.check_definition().await?;
                self.index.gone(object::name(&object)).await?;
            }
            WatchEvent::Bookmark(mark) => self.advance(Some(&mark.metadata.resource_version))?,
            WatchEvent::Error(_) => {}
        }
        self.heard();
        Ok(())
    }

    /// Whether routes are not served because their definition is gone, and not because the API server has just begun.
    async fn is_removed(&self, failure: &Failure) -> bool {
        let kind = self.watch.kind;
        failure.cause == Restart::NotServed
            && kind == KindId::GatewayRoute
            && self.timing.asks_for_definition
            && self.ask().is_removed(kind).await
    }

    /// Fails when routes go, or are missing in a list, because their definition goes: what was read stays then, as while
    /// the kind is not served.
    async fn check_definition(&mut self) -> Result<(), Failure> {
        let is_asked = self.watch.kind == KindId::GatewayRoute
            && self.timing.asks_for_definition
            && self.definition_seen.is_none_or(|seen| seen.elapsed() > DEFINITION_HOLDS);
        if !is_asked {
            return Ok(());
        }
        if self.ask().is_removed(self.watch.kind).await {
            let says = "its CustomResourceDefinition is being removed, or is not there";
            return Err(Failure::new(Restart::NotServed, Verb::Watch, says));
        }
        self.definition_seen = Some(Instant::now());
        Ok(())
    }

    /// Notes the version of an event. Versions of one kind only rise: when one falls, events came in the wrong order or
    /// the data of the API server are those of an earlier time, and what was read cannot be trusted.
    fn advance(&mut self, version: Option<&str>) -> Result<(), Failure> {
        let version = version.filter(|version| !version.is_empty()).ok_or_else(|| no_version(Verb::Watch))?;
        let number = |version: &str| version.parse::<u64>().ok();
        let before = self.position.as_deref().and_then(number);
        if let (Some(before), Some(now)) = (before, number(version))
            && now < before
        {
            let says = format!("version {now} came after version {before}");
            return Err(Failure::new(Restart::Disordered, Verb::Watch, says));
        }
        self.position = Some(version.to_owned());
        Ok(())
    }

    /// The API server has said something that counts.
    fn heard(&mut self) {
        self.cells.heard();
        self.failures = 0;
        self.not_served = 0;
        self.turned_away = 0;
        self.forbidden_since = None;
        if !std::mem::take(&mut self.told).is_empty() {
            tracing::info!("{}: read again", self.watch);
        }
    }

    /// That the rest is served without this kind, where it is not needed and none of its versions can be read.
    fn gives_up(&self, failure: &Failure) -> Option<Event> {
        if self.watch.is_needed {
            return None;
        }
        let is_last = self.not_served as usize + 1 >= self.watch.kind.api_versions().len();
        match failure.cause {
            Restart::Forbidden => Some(Event::Forbidden(failure.says.clone())),
            Restart::NotServed => is_last.then_some(Event::NotServed),
            Restart::Expired
            | Restart::Disordered
            | Restart::Throttled
            | Restart::Refused
            | Restart::Silent
            | Restart::Broken
            | Restart::Relist => None,
        }
    }

    /// Takes a failure into account; how long to wait before the next attempt.
    fn failed(&mut self, failure: &Failure) -> Duration {
        let cause = failure.cause;
        self.cells.restarted(cause);
        self.failures = self.failures.saturating_add(1);
        let is_unavailable = matches!(cause, Restart::Forbidden | Restart::NotServed);
        if is_unavailable {
            self.cells.set_available(false);
        }
        if cause == Restart::NotServed {
            // Another version of the kind may be served.
            self.version += 1;
            self.not_served = self.not_served.saturating_add(1);
        } else {
            self.not_served = 0;
        }
        let is_stale = match cause {
            Restart::Expired | Restart::Disordered | Restart::Relist => true,
            Restart::Forbidden | Restart::NotServed => true,
            Restart::Throttled | Restart::Refused | Restart::Silent | Restart::Broken => false,
        };
        if is_stale || self.failures.is_multiple_of(LIST_AFTER) {
            self.position = None;
        }
        // What was read is known to be old, or nothing is wrong but silence: no reason to wait, the first time.
        if self.failures == 1 && matches!(cause, Restart::Expired | Restart::Disordered | Restart::Silent) {
            return Duration::ZERO;
        }
        let versions = self.watch.kind.api_versions().len();
        // The next version has not been asked for yet, and whoever starts waits for the answer.
        if cause == Restart::NotServed && (self.not_served as usize) < versions {
            return Duration::ZERO;
        }
        let is_first_time = cause == Restart::NotServed && self.not_served as usize <= versions;
        // Somebody waits for a Secret or ConfigMap, and for the right to read it.
        let is_awaited = self.watch.is_needed || matches!(self.watch.kind, KindId::Secret | KindId::ConfigMap);
        let may_settle = cause == Restart::Forbidden
            && self.forbidden_since.get_or_insert_with(Instant::now).elapsed() < RIGHTS_SETTLE;
        let longest = match cause {
            _ if !is_unavailable || is_awaited || may_settle || is_first_time => self.pause(),
            Restart::NotServed if self.watch.kind != KindId::GatewayRoute => self.timing.not_served_pause,
            _ => UNAVAILABLE_PAUSE,
        };
        let mut pause = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        if matches!(cause, Restart::Throttled | Restart::Refused | Restart::Silent) {
            let spread = FIRST_SPREAD.saturating_mul(1 << self.turned_away.min(8)).min(self.timing.spread);
            self.turned_away = self.turned_away.saturating_add(1);
            pause = pause.max(spread.mul_f64(fastrand::f64()));
        }
        pause.max(failure.retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER))
    }

    /// The pause after so many failures in a row, without jitter.
    fn pause(&self) -> Duration {
        let Timing { first_pause, longest_pause, .. } = self.timing;
        first_pause.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(longest_pause)
    }

    /// What still works while the watch fails.
    fn effect(&self) -> &'static str {
        match self.watch.kind {
            KindId::BackendTlsPolicy => {
                "what was read before stays active, and no other Service asks for TLS to its pods"
            }
            kind if is_needed(kind) && self.has_read => "what was read before stays active",
            _ if self.watch.is_needed && !self.has_read => {
                "nothing of it was read yet: serving begins when it is, or with what is kept of an earlier run"
            }
            _ => "what needs it is refused, the rest is served",
        }
    }

    /// Logs a failure once for as long as it lasts.
    fn complain(&mut self, failure: &Failure) {
        let cause = failure.cause;
        // A single one of these is part of a watch's life, or nothing yet.
        let is_usual = matches!(cause, Restart::Expired | Restart::Silent | Restart::Relist | Restart::Broken);
        let is_silent = is_usual && self.failures == 0;
        if is_silent || self.told.contains(&cause) {
            return;
        }
        self.told.push(cause);
        let watch = &self.watch;
        let effect = self.effect();
        match cause {
            Restart::Forbidden => {
                tracing::error!(
                    "{watch}: may not be listed and watched: {failure}; expected a role with list and watch; {effect}"
                );
            }
            Restart::NotServed if watch.kind == KindId::ReferenceGrant => {
                tracing::info!(
                    "{watch}: the API server does not serve this kind: no reference between namespaces is granted"
                );
            }
            Restart::NotServed if watch.kind == KindId::BackendTlsPolicy => {
                tracing::info!("{watch}: the API server does not serve this kind: no Service asks for TLS to its pods");
            }
            Restart::NotServed if watch.kind == KindId::GatewayRoute => {
                tracing::error!(
                    "{watch}: the API server does not serve this kind; expected its CustomResourceDefinition, which \
                     `tidegate crd` prints; {effect}"
                );
            }
            Restart::NotServed => {
                tracing::error!(
                    "{watch}: the API server does not serve {}; expected a newer Kubernetes; {effect}",
                    watch.kind.api_versions()[0]
                );
            }
            Restart::Throttled
            | Restart::Expired
            | Restart::Disordered
            | Restart::Refused
            | Restart::Silent
            | Restart::Relist
            | Restart::Broken => {
                tracing::warn!("{watch}: the watch failed: {failure}; {effect}; trying again");
            }
        }
    }
}

/// Waits until other Services are wanted; for ever where all are.
async fn others(wanted: &mut Option<watch::Receiver<Wanted>>) {
    let is_over = match wanted {
        Some(wanted) => wanted.changed().await.is_err(),
        None => true,
    };
    if is_over {
        std::future::pending().await
    }
}

/// The annotation of the bookmark at the end of a list that is a stream.
const INITIAL_END: &str = "k8s.io/initial-events-end";

fn no_version(verb: Verb) -> Failure {
    Failure::new(Restart::Broken, verb, "found no metadata.resourceVersion, expected one")
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        self.selector.as_ref().map_or(Ok(()), |selector| write!(f, " with {selector}"))
    }
}
