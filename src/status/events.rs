//! Events of routes: the same as their conditions, for whoever looks at what happened.
//!
//! What happens again within a few minutes is counted in the Event that tells it already, as client-go does: a route whose
//! Service comes and goes has one Event with a count, and not hundreds of equal ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::call::{Failure, within};
use super::complaints::Complaints;
use super::desired::Notice;
use crate::api::gateway_route::API_VERSION;
use crate::kinds::Kind as _;
use crate::kinds::gateway_route::Route;
use crate::model::ids::ObjectName;

/// Time for one Event.
const CALL: Duration = Duration::from_secs(5);

/// The name under which Events are reported.
const CONTROLLER: &str = "tidegate.dev/controller";

/// What was done, or tried.
const ACTION: &str = "Serve";

/// Bytes of a note; an API server takes 1,024.
const MOST_BYTES: usize = 1024;

/// Characters of a route's name in the name of an Event, which may have 253 in all.
const MOST_OF_A_NAME: usize = 200;

/// Characters of the name of a replica.
const MOST_OF_AN_INSTANCE: usize = 128;

/// How long after an Event the same is counted in it; the time that client-go takes.
const SERIES: Duration = Duration::from_mins(6);

/// Events that are remembered so that they can be counted. Beyond them the oldest are forgotten: they are told anew.
const MOST_REMEMBERED: usize = 1024;

/// Namespaces of which the log says that Events cannot be written there.
const MOST_COMPLAINTS: usize = 16;

/// Writes Events.
pub(super) struct Events {
    client: Client,
    /// The replica.
    instance: String,
    told: Mutex<Told>,
    /// Namespaces in which none may be written.
    refused: Mutex<Complaints<Arc<str>>>,
}

/// What an Event is about: the route by its uid, the kind of Event, its reason and its note.
type About = (Box<str>, bool, Box<str>, Box<str>);

/// An Event that was written.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    count: i32,
    at: Instant,
}

/// The Events of the last minutes.
#[derive(Debug, Default)]
struct Told(BTreeMap<About, Known>);

impl Told {
    /// The Event that told the same a short while ago, with one more in its count.
    fn again(&self, about: &About, now: Instant) -> Option<Known> {
        let known = self.0.get(about).filter(|known| now.saturating_duration_since(known.at) < SERIES)?;
        Some(Known { name: known.name.clone(), count: known.count.saturating_add(1), at: now })
    }

    /// Remembers an Event as it was written.
    fn remember(&mut self, about: About, known: Known) {
        if self.0.len() >= MOST_REMEMBERED && !self.0.contains_key(&about) {
            let now = known.at;
            self.0.retain(|_, known| now.saturating_duration_since(known.at) < SERIES);
            if self.0.len() >= MOST_REMEMBERED
                && let Some(oldest) = self.0.iter().min_by_key(|(_, known)| known.at).map(|(about, _)| about.clone())
            {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(about, known);
    }
}

impl Events {
    pub(super) fn new(client: Client, instance: String) -> Self {
        let instance = instance.chars().take(MOST_OF_AN_INSTANCE).collect();
        Self { client, instance, told: Mutex::default(), refused: Mutex::new(Complaints::new(MOST_COMPLAINTS)) }
    }

    /// Publishes one Event for each notice. That it cannot is no reason to do anything else.
    pub(super) async fn publish(&self, name: &ObjectName, uid: &str, notices: Vec<Notice>) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &name.namespace);
        for notice in notices {
            match self.write(&api, name, uid, notice).await {
                Ok(()) => {
                    if lock(&self.refused).ends(&name.namespace) {
                        tracing::info!(namespace = &*name.namespace, "Events are written again");
                    }
                }
                Err(Failure::Forbidden(message)) => {
                    // Said once for as long as it lasts, and not for each of thousands of routes.
                    if lock(&self.refused).begins(Arc::clone(&name.namespace)) {
                        tracing::warn!(
                            route = %name,
                            "an Event may not be written: {message}; expected a role with create and patch of \
                             events.k8s.io/events; the conditions of the route say the same"
                        );
                    }
                }
                Err(failure) => tracing::debug!(route = %name, "an Event was not written: {failure}"),
            }
        }
    }

    /// Counts the notice in the Event that tells the same already, or writes a new one.
    async fn write(&self, api: &Api<Event>, name: &ObjectName, uid: &str, notice: Notice) -> Result<(), Failure> {
        let Notice { is_warning, reason, message } = notice;
        let notice = Notice { is_warning, reason, message: cut(message) };
        let about: About = (uid.into(), is_warning, notice.reason.clone(), notice.message.as_str().into());
        let now = Timestamp::now();
        let again = lock(&self.told).again(&about, Instant::now());
        if let Some(known) = again {
            let series = EventSeries { count: known.count, last_observed_time: MicroTime(now) };
            let patch = Patch::Merge(json!({ "series": series }));
            match within(CALL, api.patch(&known.name, &PatchParams::default(), &patch)).await {
                Ok(_) => {
                    self.remember(about, known);
                    return Ok(());
                }
                // Its time is over, or somebody has removed it: there is a new one.
                Err(Failure::NotFound(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        let event = event(name, uid, notice, &self.instance, now);
        within(CALL, api.create(&PostParams::default(), &event)).await?;
        self.remember(about, Known { name: event.metadata.name.unwrap_or_default(), count: 1, at: Instant::now() });
        Ok(())
    }

    fn remember(&self, about: About, known: Known) {
        lock(&self.told).remember(about, known);
    }
}

/// What a panic has left is as good as what was there before it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event(name: &ObjectName, uid: &str, notice: Notice, instance: &str, now: Timestamp) -> Event {
    let short: String = name.name.chars().take(MOST_OF_A_NAME).collect();
    let suffix = fastrand::u64(..);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{suffix:016x}", short.trim_end_matches(['-', '.']))),
            namespace: Some(name.namespace.to_string()),
            ..ObjectMeta::default()
        },
        action: Some(ACTION.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(notice.message),
        reason: Some(notice.reason.into_string()),
        regarding: Some(ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(Route::NAME.to_owned()),
            namespace: Some(name.namespace.to_string()),
            name: Some(name.name.to_string()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// A note that an API server takes.
fn cut(mut note: String) -> String {
    if note.len() > MOST_BYTES {
        const ELLIPSIS: char = '…';
        let most = MOST_BYTES - ELLIPSIS.len_utf8();
        let end = (0..=most).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push(ELLIPSIS);
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_into_what_an_api_server_takes() {
        let name = ObjectName::new("ns", "a.".repeat(126) + "a");
        let message = "ä".repeat(2000);
        let notice = Notice { is_warning: true, reason: "BackendNotFound".into(), message: cut(message) };
        let event = event(&name, "uid", notice, "replica", Timestamp::UNIX_EPOCH);
        let text = |text: &Option<String>| text.clone().expect("a text");
        assert!(text(&event.metadata.name).len() <= 253 && text(&event.metadata.name).starts_with("a.a"));
        assert!(!text(&event.metadata.name).contains(".."));
        assert!(text(&event.note).len() <= 1024 && text(&event.note).ends_with('…'));
        assert_eq!((text(&event.type_), text(&event.reason)), ("Warning".to_owned(), "BackendNotFound".to_owned()));
        assert_eq!(event.regarding.and_then(|object| object.uid).as_deref(), Some("uid"));
    }

    fn about(number: usize) -> About {
        (format!("uid-{number}").into(), true, "BackendNotFound".into(), "note".into())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_again_soon_is_counted_and_later_told_anew() {
        let mut told = Told::default();
        let now = Instant::now();
        assert!(told.again(&about(0), now).is_none());
        told.remember(about(0), Known { name: "a".to_owned(), count: 1, at: now });
        let other = (about(0).0, true, "BackendNotFound".into(), "another note".into());
        assert!(told.again(&other, now).is_none());
        let mut last = now;
        for count in 2..5 {
            last += SERIES - Duration::from_secs(1);
            let again = told.again(&about(0), last).expect("it was told a short while ago");
            assert_eq!((again.name.as_str(), again.count), ("a", count));
            told.remember(about(0), again);
        }
        assert!(told.again(&about(0), last + SERIES).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_there_is_room_for() {
        let mut told = Told::default();
        let now = Instant::now();
        for number in 0..MOST_REMEMBERED + 10 {
            let at = now + Duration::from_millis(number as u64);
            told.remember(about(number), Known { name: String::new(), count: 1, at });
        }
        let last = now + Duration::from_millis(MOST_REMEMBERED as u64 + 9);
        assert_eq!(told.0.len(), MOST_REMEMBERED);
        assert!(told.again(&about(9), last).is_none() && told.again(&about(10), last).is_some());
        told.remember(about(0), Known { name: String::new(), count: 1, at: now + 2 * SERIES });
        assert_eq!(told.0.len(), 1, "what is too old to be counted goes first");
    }
}
