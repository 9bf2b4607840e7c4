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
use crate::model::tls::EndpointTls;

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
    /// The last backend that was asked for, its endpoints, and what is strange about them.
    last: Option<(BackendKey, OfBackend, Vec<Diagnostic>)>,
    findings: BTreeMap<usize, Vec<Diagnostic>>,
}

impl BackendTable {
    /// Gives each backend its endpoints. Keys are sorted; ports and how TLS is spoken to them are in the same order. Of the table `before`, which was
    /// made from other objects, is taken over what has not changed since.
    pub(super) fn new(
        keys: Vec<BackendKey>,
        (ports, tls): (Vec<PortOf>, Vec<Option<Arc<EndpointTls>>>),
        inputs: &Inputs,
        before: Option<(&BackendTable, &Inputs)>,
    ) -> Self {
        let before = before.filter(|(_, was)| {
            was.allow_loopback_endpoints == inputs.allow_loopback_endpoints
                && was.own_services == inputs.own_services
                && was.place == inputs.place
        });
        let (kept, mut old_findings) = match &before {
            Some((table, was)) => (
                table.unchanged(&keys, &ports, &changed_services(&was.objects, &inputs.objects)),
                table.findings.clone(),
            ),
            None => (vec![None; keys.len()], BTreeMap::new()),
        };
        let unknown = keys.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
        let new: FxHashSet<ServiceName> = unknown.map(|(key, _)| service_of(key)).collect();
        let is_wanted =
            |namespace: &Arc<str>, service: &Arc<str>| new.contains(&(Arc::clone(namespace), Arc::clone(service)));
        let index = EndpointIndex::new(inputs, is_wanted);
        let mut look_up = LookUp { index, last: None, findings: BTreeMap::new() };
        let found = keys.into_iter().zip(&ports).zip(kept).zip(tls).enumerate();
        let backends = found.map(|(at, (((key, port), kept), tls))| {
            let known = kept.and_then(|kept| Some((kept, before?.0.backends.get(kept)?)));
            let Some((position, known)) = known else {
                let OfBackend { used, draining } = look_up.endpoints((at, &key), port);
                return Backend { key, endpoints: used, draining, tls };
            };
            if let Some(findings) = old_findings.remove(&position) {
                look_up.findings.insert(at, findings);
            }
            Backend { tls, ..known.clone() }
        });
        Self { backends: backends.collect(), findings: look_up.findings, ports }
    }

    /// For each of some backends, sorted by key, its position in this table, where what gives it its endpoints is the same.
    fn unchanged(&self, keys: &[BackendKey], ports: &[PortOf], changed: &FxHashSet<ServiceName>) -> Vec<Option<usize>> {
        let mut old = self.backends.iter().zip(&self.ports).enumerate().peekable();
        let position = |(key, port): (&BackendKey, &PortOf)| {
            // Mostly the next one is the same: that is quicker to tell than the order.
            while old.next_if(|(_, (backend, _))| backend.key != *key && backend.key < *key).is_some() {}
            let (at, (_, of)) = old.next_if(|(_, (backend, _))| backend.key == *key)?;
            let is_same = Arc::ptr_eq(&of.service, &port.service) && of.port == port.port;
            (is_same && (changed.is_empty() || !changed.contains(&service_of(key)))).then_some(at)
        };
        keys.iter().zip(ports).map(position).collect()
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
            let Backend { key, endpoints, draining, tls: _ } = backend;
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
                Some(OfBackend { used, draining }) => Backend { endpoints: used, draining, ..backend.clone() },
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
        if let Some((last, endpoints, found)) = &self.last
            && (&last.service, last.port) == (&key.service, key.port)
        {
            // Said of both, since one of them may go away; told once.
            if !found.is_empty() {
                self.findings.insert(at, found.clone());
            }
            return endpoints.clone();
        }
        let mut found = Vec::new();
        let endpoints = match of.service.ports.get(of.port) {
            Some(port) => self.index.endpoints(&key.service, &of.service, port, &mut found),
            None => OfBackend::default(),
        };
        if !found.is_empty() {
            self.findings.insert(at, found.clone());
        }
        self.last = Some((key.clone(), endpoints.clone(), found));
        endpoints
    }
}

/// The Service of a backend.
fn service_of(key: &BackendKey) -> ServiceName {
    (Arc::clone(&key.service.namespace), Arc::clone(&key.service.name))
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
