//! Writes the status of BackendTLSPolicies.
//!
//! All controllers share one list of at most sixteen entries, which is replaced as a whole: so each round reads the
//! policies, changes the one entry that is ours, and writes with the version that was read; who was quicker is not
//! overwritten. There are few policies, and a round is made only when there is something else to say, when this replica
//! begins to lead, and each [`SWEEP`] for what others have taken away; so nothing is watched for it and nothing is kept.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams, Request};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::book::Published;
use super::call::{Failure, within};
use super::complaints::Complaints;
use super::election::Leadership;
use crate::api::backend_tls_policy::BackendTlsPolicy;
use crate::api::open_enum::KnownValue as _;
use crate::compile::policy_status::{PolicyStatus, PolicyVerdict};
use crate::model::ids::ObjectName;
use crate::source::stored::Identity;
use crate::telemetry::metrics::{StatusMetrics, StatusWrite};

/// Time for one call.
const CALL: Duration = Duration::from_secs(5);

/// How often the policies are read again while there is something to say about them.
const SWEEP: Duration = Duration::from_secs(60);

/// The pause after a policy that somebody else has changed meanwhile, and the first one after a call that failed; the
/// latter doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Entries that all controllers share, by Gateway API.
const MOST_ENTRIES: usize = 16;

/// Policies of which the log says that their statuses cannot be written.
const MOST_COMPLAINTS: usize = 16;

/// Policies of one page of a list.
const PAGE: u32 = 500;

/// A policy as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredPolicy {
    name: ObjectName,
    uid: Box<str>,
    version: Box<str>,
    generation: Option<i64>,
    /// `status.ancestors`, of all controllers.
    entries: Vec<Value>,
}

impl StoredPolicy {
    fn read(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default();
        Self {
            name: ObjectName::new(text("namespace"), text("name")),
            uid: text("uid").into(),
            version: text("resourceVersion").into(),
            generation: metadata["generation"].as_i64(),
            entries: object["status"]["ancestors"].as_array().cloned().unwrap_or_default(),
        }
    }
}

/// Where policies are.
pub(super) trait Policies: Send + Sync + 'static {
    /// All of them.
    fn list(&self) -> impl Future<Output = Result<Vec<StoredPolicy>, Failure>> + Send;
    /// Replaces the entries of one, unless it is another one by now.
    fn write(&self, policy: &StoredPolicy, entries: Vec<Value>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The policies of a cluster.
pub(super) struct ClusterPolicies {
    client: Client,
    /// Only those in these namespaces; empty: in all.
    namespaces: Vec<String>,
    params: PatchParams,
}

impl ClusterPolicies {
    pub(super) fn new(client: Client, namespaces: Vec<String>, identity: &Identity) -> Self {
        let params = PatchParams { field_manager: Some(identity.field_manager()), ..PatchParams::default() };
        Self { client, namespaces, params }
    }

    fn path(namespace: Option<&str>) -> String {
        let within = namespace.map_or_else(String::new, |namespace| format!("/namespaces/{namespace}"));
        format!("/apis/{}{within}/backendtlspolicies", BackendTlsPolicy::API_VERSIONS[0])
    }

    async fn list_in(&self, namespace: Option<&str>, found: &mut Vec<StoredPolicy>) -> Result<(), Failure> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let request = Request::new(Self::path(namespace)).list(&params);
            let request = request.map_err(|error| Failure::Broken(error.to_string()))?;
            let page: Value = within(CALL, self.client.request(request)).await?;
            found.extend(page["items"].as_array().into_iter().flatten().map(StoredPolicy::read));
            match page["metadata"]["continue"].as_str() {
                None | Some("") => return Ok(()),
                Some(token) => params = params.continue_token(token),
            }
        }
    }
}

impl Policies for ClusterPolicies {
    async fn list(&self) -> Result<Vec<StoredPolicy>, Failure> {
        let mut found = Vec::new();
        if self.namespaces.is_empty() {
            self.list_in(None, &mut found).await?;
        }
        for namespace in &self.namespaces {
            self.list_in(Some(namespace), &mut found).await?;
        }
        Ok(found)
    }

    async fn write(&self, policy: &StoredPolicy, entries: Vec<Value>) -> Result<(), Failure> {
        // With the version, anything that was written since answers with a conflict.
        let body = json!({
            "metadata": { "uid": &*policy.uid, "resourceVersion": &*policy.version },
            "status": { "ancestors": entries },
        });
        let request = Request::new(Self::path(Some(&policy.name.namespace)))
            .patch_subresource("status", &policy.name.name, &self.params, &Patch::Merge(&body))
            .map_err(|error| Failure::Broken(error.to_string()))?;
        within(CALL, self.client.request::<Value>(request)).await.map(drop)
    }
}

/// The entries that a policy should have, if they are other ones than it has; `None` for `status` where no route of the
/// class leads to its Services.
///
/// # Errors
/// There is no room for ours.
fn entries(
    stored: &StoredPolicy,
    status: Option<&PolicyStatus>,
    identity: &Identity,
    now: Timestamp,
) -> Result<Option<Vec<Value>>, Full> {
    let ancestor = json!({
        "group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": &*identity.gateway_class_name,
    });
    let is_own = |entry: &Value| {
        let of = &entry["ancestorRef"];
        entry["controllerName"] == *identity.controller_name
            && of["kind"] == ancestor["kind"]
            && of["name"] == ancestor["name"]
    };
    let own = stored.entries.iter().position(is_own);
    let wanted = status.map(|status| {
        let before = own.map_or(&Value::Null, |at| &stored.entries[at]["conditions"]);
        let conditions = [("Accepted", &status.accepted), ("ResolvedRefs", &status.resolved_refs)];
        let conditions = conditions.map(|(kind, verdict)| condition(kind, verdict, status.generation, before, now));
        json!({ "ancestorRef": ancestor, "controllerName": &*identity.controller_name, "conditions": conditions })
    });
    let mut all = stored.entries.clone();
    match (own, wanted) {
        (Some(at), Some(wanted)) => all[at] = wanted,
        (Some(at), None) => drop(all.remove(at)),
        (None, Some(_)) if all.len() >= MOST_ENTRIES => return Err(Full),
        (None, Some(wanted)) => all.push(wanted),
        (None, None) => {}
    }
    Ok((all != stored.entries).then_some(all))
}

/// A condition; the time of the last transition stays for as long as its status does.
fn condition(kind: &str, verdict: &PolicyVerdict, generation: Option<i64>, before: &Value, now: Timestamp) -> Value {
    let holds = if verdict.holds { "True" } else { "False" };
    let before = before.as_array().into_iter().flatten().find(|one| one["type"] == kind && one["status"] == holds);
    let since = before.map(|one| &one["lastTransitionTime"]).filter(|since| since.is_string());
    // Times of conditions have whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({
        "type": kind,
        "status": holds,
        "reason": verdict.reason.as_str(),
        "message": verdict.message,
        "observedGeneration": generation,
        "lastTransitionTime": since.cloned().unwrap_or_else(|| now.to_string().into()),
    })
}

/// All entries are those of other controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {MOST_ENTRIES} entries of other controllers in status.ancestors, expected room for one more")
    }
}

/// Writes while this replica leads.
pub(super) struct PolicyWriter<T> {
    target: Arc<T>,
    leadership: Leadership,
    published: watch::Receiver<Option<Published>>,
    identity: Identity,
    metrics: Arc<StatusMetrics>,
    /// Of which the log has said that their statuses cannot be written.
    refused: Complaints<ObjectName>,
    /// Calls fail, and the log has said so.
    is_broken: bool,
    pause: Duration,
}

impl<T: Policies> PolicyWriter<T> {
    pub(super) fn new(
        target: T,
        leadership: Leadership,
        published: watch::Receiver<Option<Published>>,
        identity: Identity,
        metrics: Arc<StatusMetrics>,
    ) -> Self {
        Self {
            target: Arc::new(target),
            leadership,
            published,
            identity,
            metrics,
            refused: Complaints::new(MOST_COMPLAINTS),
            is_broken: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Writes until `stop` is sent or dropped, or nobody tells it anything any more. A call that runs then is given up.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut is_leader = false;
        // What the last round was made of, and when there is another one of the same.
        let mut done: Option<Arc<[PolicyStatus]>> = None;
        let mut next = None;
        loop {
            if std::mem::replace(&mut is_leader, self.leadership.holds()) != is_leader {
                (done, next) = (None, None);
            }
            let statuses = self
                .published
                .borrow_and_update()
                .as_ref()
                .filter(|it| !it.inputs.objects.tls_policies.is_empty())
                .map(|it| Arc::clone(&it.policies));
            let is_due = next.is_some_and(|next| Instant::now() >= next);
            if let Some(statuses) = statuses.filter(|statuses| is_leader && (is_due || done.as_ref() != Some(statuses)))
            {
                let mut leadership = self.leadership.clone();
                let pause = tokio::select! {
                    pause = self.round(&statuses) => pause,
                    // Nobody may write after another one has begun.
                    () = leadership.changed(true) => continue,
                    _ = &mut stop => return,
                };
                next = pause.or_else(|| (!statuses.is_empty()).then_some(SWEEP)).map(|pause| Instant::now() + pause);
                done = Some(statuses);
            }
            let wake = async {
                match next {
                    Some(next) if is_leader => tokio::time::sleep_until(next).await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut stop => return,
                changed = self.published.changed() => if changed.is_err() { return },
                () = self.leadership.changed(is_leader) => {}
                () = wake => {}
            }
        }
    }

    /// Reads all policies and writes what has to be said about them; after which pause to try again, if something is left.
    async fn round(&mut self, statuses: &[PolicyStatus]) -> Option<Duration> {
        let stored = match self.target.list().await {
            Ok(stored) => stored,
            // The kind is gone: there is nothing to write.
            Err(Failure::NotFound(_)) => return None,
            Err(failure) => return Some(self.rest(&failure)),
        };
        let mut again = None;
        for policy in &stored {
            let status = statuses.binary_search_by(|status| status.name.cmp(&policy.name)).ok().map(|at| &statuses[at]);
            // What was compiled is another version of it: the next one is on its way.
            if status.is_some_and(|status| status.generation != policy.generation) {
                continue;
            }
            let wanted = match entries(policy, status, &self.identity, Timestamp::now()) {
                Ok(Some(wanted)) => wanted,
                Ok(None) => continue,
                Err(full) => {
                    if self.refused.begins(policy.name.clone()) {
                        tracing::warn!(
                            policy = %policy.name,
                            "the status of a BackendTLSPolicy has no room: {full}; the policy is followed all the same"
                        );
                    }
                    continue;
                }
            };
            let written = self.target.write(policy, wanted).await;
            self.metrics.wrote(match &written {
                Ok(()) => StatusWrite::Ok,
                Err(Failure::TimedOut(_)) => StatusWrite::Timeout,
                Err(Failure::Busy(..) | Failure::Failed(_) | Failure::Broken(_)) => StatusWrite::Error,
                Err(Failure::Conflict(_) | Failure::NotFound(_) | Failure::Forbidden(_) | Failure::Refused(_)) => {
                    StatusWrite::Refused
                }
            });
            match written {
                Ok(()) => drop(self.refused.ends(&policy.name)),
                Err(Failure::Conflict(_) | Failure::NotFound(_)) => again = Some(FIRST_PAUSE),
                Err(Failure::Refused(message)) => {
                    if self.refused.begins(policy.name.clone()) {
                        tracing::error!(
                            policy = %policy.name,
                            "the API server refuses the status of a BackendTLSPolicy: {message}; traffic is not affected"
                        );
                    }
                }
                Err(
                    failure @ (Failure::Forbidden(_)
                    | Failure::Busy(..)
                    | Failure::Failed(_)
                    | Failure::Broken(_)
                    | Failure::TimedOut(_)),
                ) => {
                    return Some(self.rest(&failure));
                }
            }
        }
        if std::mem::take(&mut self.is_broken) {
            tracing::info!("the status of BackendTLSPolicies is written again");
        }
        self.pause = FIRST_PAUSE;
        again
    }

    /// Notes that nothing can be written now; for how long to leave the API server alone.
    fn rest(&mut self, failure: &Failure) -> Duration {
        if !std::mem::replace(&mut self.is_broken, true) {
            match failure {
                Failure::Forbidden(message) => tracing::error!(
                    "the status of a BackendTLSPolicy may not be written: {message}; expected a role with patch of \
                     backendtlspolicies/status; traffic is not affected"
                ),
                Failure::Conflict(_)
                | Failure::NotFound(_)
                | Failure::Refused(_)
                | Failure::Busy(..)
                | Failure::Failed(_)
                | Failure::Broken(_)
                | Failure::TimedOut(_) => tracing::warn!(
                    "the status of a BackendTLSPolicy cannot be written: {failure}; trying again; traffic is not affected"
                ),
            }
        }
        let asked = match failure {
            Failure::Busy(asked, _) => *asked,
            Failure::Forbidden(_) => Some(LONGEST_PAUSE),
            Failure::Conflict(_)
            | Failure::NotFound(_)
            | Failure::Refused(_)
            | Failure::Failed(_)
            | Failure::Broken(_)
            | Failure::TimedOut(_) => None,
        };
        let pause = asked.unwrap_or(self.pause).min(LONGEST_PAUSE);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests;
