//! What a watch is about, where it is not about all of a kind: a sidecar reads the Services that it calls, their slices, and
//! grants only where a route needs one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::kinds::KindId;

/// The label of slices that has the name of their Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The longest selector of labels that is sent: whatever is between here and the API server takes requests of this size.
/// With more Services, everything in the namespace is read and most of it left out here.
const LONGEST: usize = 4 << 10;

/// What selects objects; `None`: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    pub(super) fields: Option<String>,
    pub(super) labels: Option<String>,
}

/// What somebody wants to have read of one namespace.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Of Services and slices the names of the Services; of grants the namespaces whose routes refer to this one. Without a
    /// name nothing is read.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Rises with every change.
    pub(super) number: u64,
    /// By kind, the number of those that were listed last.
    listed: watch::Sender<BTreeMap<KindId, u64>>,
}

impl Wanted {
    pub(super) fn new(names: BTreeSet<Arc<str>>) -> Self {
        Self { names, number: 0, listed: watch::Sender::new(BTreeMap::new()) }
    }

    /// Others from now on; whether they are others.
    pub(super) fn replace(&mut self, names: BTreeSet<Arc<str>>) -> bool {
        let is_new = self.names != names;
        if is_new {
            self.names = names;
            self.number += 1;
        }
        is_new
    }

    /// Notes that the objects of a kind were listed for the names with this number, or that none can be.
    pub(super) fn listed(&self, kind: KindId, number: u64) {
        self.listed.send_modify(|listed| {
            listed.insert(kind, number);
        });
    }

    /// What [`listed`](Self::listed) has noted.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<KindId, u64>> {
        self.listed.subscribe()
    }
}

/// What a watch asks for.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    kind: KindId,
    names: BTreeSet<Arc<str>>,
    pub(super) number: u64,
}

impl Selection {
    pub(super) fn new(kind: KindId, wanted: &Wanted) -> Self {
        Self { kind, names: wanted.names.clone(), number: wanted.number }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The narrowest selectors that fit all of them.
    pub(super) fn selectors(&self) -> Selectors {
        let names: Vec<&str> = self.names.iter().map(|name| &**name).collect();
        let mut selectors = Selectors::default();
        match (self.kind, &names[..]) {
            // Fields can be compared with one value only.
            (KindId::Service, [name]) => selectors.fields = Some(format!("metadata.name={name}")),
            (KindId::EndpointSlice, names) => {
                let labels = format!("{SERVICE_NAME} in ({})", names.join(","));
                selectors.labels = Some(labels).filter(|labels| labels.len() <= LONGEST);
            }
            _ => {}
        }
        selectors
    }

    /// Whether an object is one of them, or belongs to one of them.
    pub(super) fn has(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let name = match self.kind {
            // There are few, and what they grant is decided where routes are compiled.
            KindId::ReferenceGrant => return true,
            KindId::EndpointSlice => metadata["labels"][SERVICE_NAME].as_str(),
            _ => metadata["name"].as_str(),
        };
        name.is_some_and(|name| self.names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selection(kind: KindId, names: impl IntoIterator<Item = String>) -> Selection {
        Selection::new(kind, &Wanted::new(names.into_iter().map(Arc::from).collect()))
    }

    #[test]
    fn the_narrowest_selectors_are_asked_for() {
        let names = |count: usize| (0..count).map(|number| format!("service-{number:03}"));
        let fields = |fields: &str| Selectors { fields: Some(fields.to_owned()), labels: None };
        let labels = |labels: &str| Selectors { fields: None, labels: Some(labels.to_owned()) };
        let table = [
            (KindId::Service, 1, fields("metadata.name=service-000")),
            (KindId::Service, 2, Selectors::default()),
            (KindId::EndpointSlice, 1, labels("kubernetes.io/service-name in (service-000)")),
            (KindId::EndpointSlice, 2, labels("kubernetes.io/service-name in (service-000,service-001)")),
            (KindId::EndpointSlice, 1000, Selectors::default()),
            (KindId::ReferenceGrant, 1, Selectors::default()),
        ];
        for (kind, count, expected) in table {
            assert_eq!(selection(kind, names(count)).selectors(), expected, "{kind:?} {count}");
        }
    }

    #[test]
    fn what_no_selector_leaves_out_is_left_out_here() {
        let object =
            |name: &str, service: &str| json!({ "metadata": { "name": name, "labels": { SERVICE_NAME: service } } });
        let of = |kind| selection(kind, ["web".to_owned()]);
        assert!(of(KindId::Service).has(&object("web", "other")));
        assert!(!of(KindId::Service).has(&object("other", "web")));
        assert!(of(KindId::EndpointSlice).has(&object("other", "web")));
        assert!(!of(KindId::EndpointSlice).has(&json!({ "metadata": { "name": "web" } })));
        assert!(of(KindId::ReferenceGrant).has(&json!({ "metadata": { "name": "other" } })));
    }
}
