//! Events of routes: the same as their conditions, for whoever looks at what happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::call::{Failure, within};
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

/// Writes Events.
pub(super) struct Events {
    client: Client,
    /// The replica.
    instance: String,
    /// The log says that none may be written, and none has been since.
    is_refused: AtomicBool,
}

impl Events {
    pub(super) fn new(client: Client, instance: String) -> Self {
        let instance = instance.chars().take(MOST_OF_AN_INSTANCE).collect();
        Self { client, instance, is_refused: AtomicBool::new(false) }
    }

    /// Publishes one Event for each notice. That it cannot is no reason to do anything else.
    pub(super) async fn publish(&self, name: &ObjectName, uid: &str, notices: Vec<Notice>) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &name.namespace);
        for notice in notices {
            let event = event(name, uid, notice, &self.instance, Timestamp::now());
            match within(CALL, api.create(&PostParams::default(), &event)).await {
                Ok(_) => {
                    if self.is_refused.swap(false, Ordering::Relaxed) {
                        tracing::info!("Events are written again");
                    }
                }
                // Said once for as long as it lasts, and not for each of thousands of routes.
                Err(Failure::Forbidden(_)) if self.is_refused.swap(true, Ordering::Relaxed) => {}
                Err(Failure::Forbidden(message)) => {
                    tracing::warn!(
                        route = %name,
                        "an Event may not be written: {message}; expected a role with create of events.k8s.io/events; the \
                         conditions of the route say the same"
                    );
                }
                Err(failure) => tracing::debug!(route = %name, "an Event was not written: {failure}"),
            }
        }
    }
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
        note: Some(cut(notice.message)),
        reason: Some(notice.reason.as_str().to_owned()),
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
    use crate::api::conditions::ConditionReason;

    #[test]
    fn an_event_fits_into_what_an_api_server_takes() {
        let name = ObjectName::new("ns", "a.".repeat(126) + "a");
        let message = "ä".repeat(2000);
        let notice = Notice { is_warning: true, reason: ConditionReason::BackendNotFound, message };
        let event = event(&name, "uid", notice, "replica", Timestamp::UNIX_EPOCH);
        let text = |text: &Option<String>| text.clone().expect("a text");
        assert!(text(&event.metadata.name).len() <= 253 && text(&event.metadata.name).starts_with("a.a"));
        assert!(!text(&event.metadata.name).contains(".."));
        assert!(text(&event.note).len() <= 1024 && text(&event.note).ends_with('…'));
        assert_eq!((text(&event.type_), text(&event.reason)), ("Warning".to_owned(), "BackendNotFound".to_owned()));
        assert_eq!(event.regarding.and_then(|object| object.uid).as_deref(), Some("uid"));
    }
}
