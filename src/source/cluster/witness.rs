//! Tells whoever writes status what the API server has, beside the index: a status is nothing to compile.

use serde_json::Value;
use tokio::sync::mpsc;

use crate::model::ids::ObjectName;
use crate::source::stored::{Identity, Sighting, StoredRoute};

/// Where sightings go, and what of them is ours.
#[derive(Clone, Debug)]
pub struct Sightings {
    /// Whose entries are ours.
    pub identity: Identity,
    /// To whoever writes status.
    pub sender: mpsc::Sender<Sighting>,
}

/// Passes on what one watch of routes sees.
#[derive(Debug)]
pub(super) struct Witness {
    to: Sightings,
    namespace: Option<Box<str>>,
    list: Vec<(ObjectName, StoredRoute)>,
}

impl Witness {
    pub(super) fn new(to: Sightings, namespace: Option<&str>) -> Self {
        Self { to, namespace: namespace.map(Into::into), list: Vec::new() }
    }

    /// A list begins.
    pub(super) fn begins(&mut self) {
        self.list.clear();
    }

    /// Reads what is needed of an object.
    pub(super) fn read(&self, object: &Value) -> StoredRoute {
        StoredRoute::read(object, &self.to.identity)
    }

    /// An object of the list, and why it cannot be read.
    pub(super) fn listed(&mut self, name: &ObjectName, route: StoredRoute, problem: Option<&str>) {
        self.list.push((name.clone(), StoredRoute { problem: problem.map(Into::into), ..route }));
    }

    /// The list is whole.
    pub(super) async fn ends(&mut self) {
        let all = Sighting::All(self.namespace.clone(), std::mem::take(&mut self.list));
        self.pass_on(all).await;
    }

    /// An object is new or changed; and why it cannot be read.
    pub(super) async fn applied(&self, name: &ObjectName, route: StoredRoute, problem: Option<&str>) {
        let route = StoredRoute { problem: problem.map(Into::into), ..route };
        self.pass_on(Sighting::One(name.clone(), route)).await;
    }

    /// An object is gone.
    pub(super) async fn gone(&self, name: &ObjectName) {
        self.pass_on(Sighting::Gone(name.clone())).await;
    }

    async fn pass_on(&self, sighting: Sighting) {
        // Without a reader the process is stopping: nothing is written any more.
        let _ = self.to.sender.send(sighting).await;
    }
}
