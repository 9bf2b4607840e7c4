//! The backends of a snapshot: a Service port each, with the endpoints that its slices give it.
//!
//! Pods come and go far more often than routes change. So the table stays from one compilation to the next: where slices
//! and Endpoints alone have changed, only the backends of their Services are looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::diagnostics::Diagnostic;
use super::endpoints::{EndpointIndex, OfBackend};
use super::inputs::Inputs;
use crate::kinds::Objects;
use crate::kinds::service::Service;
use crate::model::backend::{Backend, BackendKey};

/// A port of a Service, by its position in the Service.
#[derive(Clone, Debug)]
pub(super) struct PortOf {
    pub(super) service: Arc<Service>,
    pub(super) port: usize,
}

/// All backends that rules lead to.
#[derive(Debug)]
pub(super) struct BackendTable {
    /// Sorted by key.
    backends: Arc<[Backend]>,
    /// In the same order.
    ports: Vec<PortOf>,
    /// What is strange about the slices and Endpoints of a backend, by its position; most have nothing.
    findings: BTreeMap<usize, Vec<Diagnostic>>,
}

/// Namespace and name of a Service.
type ServiceName = (Arc<str>, Arc<str>);

/// Looks up the endpoints of one backend after the other.
struct LookUp<'a> {
    index: EndpointIndex<'a>,
    /// The last backend that was asked for, and its endpoints.
    last: Option<(BackendKey, OfBackend)>,
    findings: BTreeMap<usize, Vec<Diagnostic>>,
}

impl BackendTable {
    /// Gives each backend its endpoints. Keys are sorted; `ports` are in the same order.
    pub(super) fn new(keys: Vec<BackendKey>, ports: Vec<PortOf>, inputs: &Inputs) -> Self {
        let index = EndpointIndex::new(inputs, |_, _| true);
        let mut look_up = LookUp { index, last: None, findings: BTreeMap::new() };
        let backends = keys.into_iter().zip(&ports).enumerate().map(|(at, (key, port))| {
            let OfBackend { used, draining } = look_up.endpoints((at, &key), port);
            Backend { key, endpoints: used, draining }
        });
        Self { backends: backends.collect(), findings: look_up.findings, ports }
    }

    /// Gives the same backends the endpoints that they have now: objects `before` were those of this table, and only
    /// slices and Endpoints have changed since. What did not change stays shared.
    pub(super) fn follow(&mut self, before: &Objects, inputs: &Inputs) {
        let changed = changed_services(before, &inputs.objects);
        let is_changed = |namespace: &Arc<str>, service: &Arc<str>| {
            // Mostly one slice has changed, or the few of a rollout.
            changed.contains(&(Arc::clone(namespace), Arc::clone(service)))
        };
        let index = EndpointIndex::new(inputs, is_changed);
        let mut look_up = LookUp { index, last: None, findings: BTreeMap::new() };
        let mut new: BTreeMap<usize, OfBackend> = BTreeMap::new();
        for (at, (backend, port)) in self.backends.iter().zip(&self.ports).enumerate() {
            let Backend { key, endpoints, draining } = backend;
            if is_changed(&key.service.namespace, &key.service.name) {
                self.findings.remove(&at);
                let now = look_up.endpoints((at, key), port);
                if (&now.used, &now.draining) != (endpoints, draining) {
                    new.insert(at, now);
                }
            }
        }
        self.findings.append(&mut look_up.findings);
        if !new.is_empty() {
            let backends = self.backends.iter().enumerate().map(|(at, backend)| match new.remove(&at) {
                Some(OfBackend { used, draining }) => Backend { key: backend.key.clone(), endpoints: used, draining },
                None => backend.clone(),
            });
            self.backends = backends.collect();
        }
    }

    /// The backends, sorted by key.
    pub(super) fn backends(&self) -> &Arc<[Backend]> {
        &self.backends
    }

    /// What is strange about slices and Endpoints: sorted, each once.
    pub(super) fn findings(&self) -> Vec<Diagnostic> {
        let mut findings: Vec<Diagnostic> = self.findings.values().flatten().cloned().collect();
        findings.sort();
        findings.dedup();
        findings
    }
}

impl LookUp<'_> {
    /// The endpoints of the backend at a position.
    fn endpoints(&mut self, (at, key): (usize, &BackendKey), of: &PortOf) -> OfBackend {
        // Two protocols of one port have the same endpoints.
        if let Some((last, endpoints)) = &self.last
            && (&last.service, last.port) == (&key.service, key.port)
        {
            return endpoints.clone();
        }
        let mut found = Vec::new();
        let endpoints = match of.service.ports.get(of.port) {
            Some(port) => self.index.endpoints(&key.service, &of.service, port, &mut found),
            None => OfBackend::default(),
        };
        if !found.is_empty() {
            self.findings.insert(at, found);
        }
        self.last = Some((key.clone(), endpoints.clone()));
        endpoints
    }
}

/// The Services of which a slice or the Endpoints are new, changed or gone.
fn changed_services(before: &Objects, now: &Objects) -> FxHashSet<ServiceName> {
    let mut changed = FxHashSet::default();
    for (name, was, is) in before.slices.differences(&now.slices) {
        let services = [was, is].into_iter().flatten().filter_map(|slice| slice.object.service.as_ref());
        changed.extend(services.map(|service| (Arc::clone(&name.namespace), Arc::clone(service))));
    }
    let endpoints = before.endpoints.differences(&now.endpoints);
    changed.extend(endpoints.map(|(name, ..)| (Arc::clone(&name.namespace), Arc::clone(&name.name))));
    changed
}
