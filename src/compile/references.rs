//! References from routes to Services: who may refer to what, and what a reference leads to.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::backend_tls::{follow, policy_of};
use super::backends::{BackendTable, PortOf};
use super::inputs::Inputs;
use super::position::RulePos;
use super::report::{About, FieldPath, Refused, Report};
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{BackendKind, BackendProtocol, BackendRef, GROUP};
use crate::api::open_enum::KnownValue;
use crate::kinds::service::{Service, ServicePort};
use crate::model::backend::{BackendKey, Protocol};
use crate::model::ids::{BackendId, ObjectName};
use crate::model::tls::EndpointTls;

/// Resolves backendRefs and keeps every backend that one leads to.
pub(super) struct Backends<'a> {
    inputs: &'a Inputs,
    services: Services<'a>,
    targets: &'a mut Targets,
}

/// Number of a backend: the same for as long as a route that is kept refers to it.
pub(super) type BackendNumber = u32;

/// All backends that routes refer to, whether they are used or not; kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// By number; `None` for a number that is free.
    list: Vec<Option<Target>>,
    free: Vec<BackendNumber>,
    /// By the hash of its key, which stands in the list alone.
    numbers: HashTable<BackendNumber>,
    /// The numbers that are not free: in the order of their keys, but for new ones at the end.
    order: Vec<BackendNumber>,
    /// The last one that was asked for.
    last: BackendNumber,
}

/// A Service port that a reference leads to.
#[derive(Debug)]
struct Target {
    key: BackendKey,
    of: PortOf,
    /// How TLS is spoken to its pods.
    tls: Option<Arc<EndpointTls>>,
}

impl Target {
    /// Takes over what it leads to now; what is the same stays shared.
    fn set(&mut self, of: PortOf, tls: Option<Arc<EndpointTls>>) {
        self.of = of;
        if self.tls != tls {
            self.tls = tls;
        }
    }
}

/// All Services in the order of their names, with the place of the last one that was looked for.
///
/// Routes come in the order of names too, and mostly refer to Services that are named like them: so the next look-up
/// mostly ends where the last one did, or one further, and is two comparisons instead of a search or a hash.
struct Services<'a> {
    inputs: &'a Inputs,
    /// Made with the first look-up.
    list: Vec<(&'a ObjectName, &'a Arc<Service>)>,
    last: usize,
}

impl<'a> Services<'a> {
    fn find(&mut self, namespace: &str, name: &str) -> Option<(&'a ObjectName, &'a Arc<Service>)> {
        if self.list.is_empty() {
            self.list = self.inputs.objects.services.iter().map(|(name, service)| (name, &service.object)).collect();
        }
        let is_at = |at: usize| {
            let found = self.list.get(at);
            found.is_some_and(|(found, _)| *found.name == *name && *found.namespace == *namespace)
        };
        let position = match (is_at(self.last), is_at(self.last + 1)) {
            (true, _) => self.last,
            (false, true) => self.last + 1,
            (false, false) => {
                let key = |(name, _): &(&'a ObjectName, _)| (&*name.namespace, &*name.name);
                self.list.binary_search_by_key(&(namespace, name), key).ok()?
            }
        };
        self.last = position;
        self.list.get(position).copied()
    }
}

impl Targets {
    /// The number of a backend, which is new or known already.
    fn number(
        &mut self,
        service: (&ObjectName, &Arc<Service>),
        port: usize,
        at: (u16, Protocol),
        tls: Option<Arc<EndpointTls>>,
    ) -> BackendNumber {
        let ((name, service), (number, protocol)) = (service, at);
        let of = PortOf { service: Arc::clone(service), port };
        // Rules of one route mostly lead to the same place.
        let is_last =
            |target: &&mut Target| (target.key.port, target.key.protocol) == at && target.key.service == *name;
        let last = self.list.get_mut(self.last as usize).and_then(Option::as_mut);
        if let Some(target) = last.filter(is_last) {
            target.set(of, tls);
            return self.last;
        }
        let key = BackendKey { service: name.clone(), port: number, protocol };
        let Self { numbers, list, .. } = self;
        let key_of = |number: &BackendNumber| list.get(*number as usize)?.as_ref().map(|target| &target.key);
        let hash = FxBuildHasher.hash_one(&key);
        if let Some(known) = numbers.find(hash, |number| key_of(number) == Some(&key)).copied() {
            if let Some(target) = self.list.get_mut(known as usize).and_then(Option::as_mut) {
                target.set(of, tls);
            }
            self.last = known;
            return known;
        }
        let hash_of = |number: &BackendNumber| key_of(number).map_or(0, |key| FxBuildHasher.hash_one(key));
        numbers.reserve(1, hash_of);
        let target = Some(Target { key, of, tls });
        let number = match self.free.pop() {
            Some(number) => {
                self.list[number as usize] = target;
                number
            }
            None => {
                self.list.push(target);
                u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert_unique(hash, number, |_| unreachable!("there is room, so nothing is hashed again"));
        self.order.push(number);
        self.last = number;
        number
    }

    fn get(&self, number: BackendNumber) -> Option<&Target> {
        self.list.get(number as usize)?.as_ref()
    }

    /// Forgets backends to which no route refers any more, once they may be as many as those that are in use.
    fn prune(&mut self, in_use: usize, referred: impl Iterator<Item = BackendNumber>) {
        if self.order.len() <= 2 * in_use + 64 {
            return;
        }
        let mut is_kept = vec![false; self.list.len()];
        referred.for_each(|number| is_kept[number as usize] = true);
        self.order.retain(|number| is_kept[*number as usize]);
        self.numbers.retain(|number| is_kept[*number as usize]);
        for (number, target) in (0..).zip(&mut self.list).filter(|(number, _)| !is_kept[*number as usize]) {
            if target.take().is_some() {
                self.free.push(number);
            }
        }
    }
}

/// Why a reference leads nowhere: the field it is about, reason, found and expected.
pub(super) type Refusal = (&'static str, ConditionReason, String, String);

/// What a reference names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) port: Option<u16>,
    /// What is sent there has a form in HTTP/2 alone, whatever the port says of itself.
    pub(super) speaks_http2: bool,
}

/// Finds the backend of a filter's reference.
pub(super) type FindBackend<'f> = dyn FnMut(Wanted<'_>) -> Result<BackendKey, Refusal> + 'f;

impl<'a> Backends<'a> {
    pub(super) fn new(inputs: &'a Inputs, targets: &'a mut Targets) -> Self {
        Self { inputs, services: Services { inputs, list: Vec::new(), last: 0 }, targets }
    }

    /// What is compiled.
    pub(super) fn inputs(&self) -> &'a Inputs {
        self.inputs
    }

    /// The backend of a reference at `at` in a rule of a route of `kind` in `namespace`, over the protocol that the
    /// reference states (see [`stated_protocol`]); `None` is reported: its share of the requests answers 500.
    pub(super) fn resolve(
        &mut self,
        (kind, namespace): (&str, &str),
        (reference, stated): (&BackendRef, Option<Protocol>),
        (rule, at): (usize, FieldPath<'_>),
        report: &mut Report<'_>,
    ) -> Option<BackendNumber> {
        let wanted = Wanted {
            group: &reference.group,
            kind: reference.kind.as_str(),
            namespace: reference.namespace_or(namespace),
            name: &reference.name,
            port: reference.port,
            speaks_http2: false,
        };
        match self.lookup((kind, namespace), wanted, stated) {
            Ok(number) => Some(number),
            Err((field, reason, found, expected)) => {
                report.add(About::Reference(RulePos(rule)), reason, at.field(field), found, expected);
                None
            }
        }
    }

    /// What finds the backends of filters' references, in a route of `kind` in `namespace`; their numbers go to `found`.
    pub(super) fn finder<'f>(
        &'f mut self,
        (kind, namespace): (&'f str, &'f str),
        found: &'f mut Vec<BackendNumber>,
    ) -> impl FnMut(Wanted<'_>) -> Result<BackendKey, Refusal> + use<'f, 'a> {
        move |wanted| {
            let number = self.lookup((kind, namespace), wanted, None)?;
            found.push(number);
            Ok(self.targets.get(number).expect("it has just been numbered").key.clone())
        }
    }

    fn lookup(
        &mut self,
        (kind, from): (&str, &str),
        wanted: Wanted<'_>,
        stated: Option<Protocol>,
    ) -> Result<BackendNumber, Refusal> {
        let Wanted { group, kind: to_kind, namespace, name: service_name, port, speaks_http2 } = wanted;
        if !group.is_empty() || to_kind != KnownValue::as_str(BackendKind::Service) {
            let of = if group.is_empty() { "" } else { " of group " };
            let found = format!("{to_kind}{of}{group}");
            return Err(("kind", ConditionReason::InvalidKind, found, "Service, of the core group".to_owned()));
        }
        if namespace != from && !is_granted(self.inputs, (kind, from), ("Service", namespace, service_name)) {
            let found = format!("Service {namespace}/{service_name} without consent");
            let expected =
                format!("a ReferenceGrant in namespace {namespace} from {kind} in namespace {from} to Service");
            return Err(("namespace", ConditionReason::RefNotPermitted, found, expected));
        }
        let Some((name, service)) = self.services.find(namespace, service_name) else {
            let found = format!("no Service {namespace}/{service_name}");
            return Err(("name", ConditionReason::BackendNotFound, found, "an existing Service".to_owned()));
        };
        if service.is_external_name {
            // It names any host, the cluster's own included: whoever may write it could reach what we can reach.
            let found = format!("Service {name} of type ExternalName");
            return Err(("name", ConditionReason::InvalidKind, found, "a Service with endpoints".to_owned()));
        }
        let wanted = port.unwrap_or(0);
        let with_number = || service.ports.iter().enumerate().filter(|(_, port)| port.port == i32::from(wanted));
        let over_tcp = with_number().find(|(_, port)| port.transport.is_none());
        let Some((at, port)) = over_tcp.or_else(|| with_number().next()) else {
            let numbers: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
            let numbers = if numbers.is_empty() { "which has none".to_owned() } else { numbers.join(", ") };
            let (found, expected) = (format!("port {wanted}"), format!("a port of Service {name}: {numbers}"));
            return Err(("port", ConditionReason::BackendNotFound, found, expected));
        };
        let protocol = protocol(stated, port)
            .map_err(|(found, expected)| ("port", ConditionReason::UnsupportedProtocol, found, expected))?;
        let protocol = if speaks_http2 { protocol.over_http2() } else { protocol };
        let (protocol, tls) = self.secure(name, port, (protocol, stated.is_some()))?;
        Ok(self.targets.number((name, service), at, (wanted, protocol), tls))
    }

    /// The protocol that is spoken to a port of a Service, and how TLS is: what a reference or the port asks for, and what
    /// the Service's BackendTLSPolicy says.
    fn secure(
        &self,
        service: &ObjectName,
        port: &ServicePort,
        (protocol, is_stated): (Protocol, bool),
    ) -> Result<(Protocol, Option<Arc<EndpointTls>>), Refusal> {
        let reason = ConditionReason::UnsupportedProtocol;
        let Some((name, policy)) = policy_of(self.inputs, service, port) else {
            if !protocol.is_secure() {
                return Ok((protocol, None));
            }
            let found = format!("protocol {} and no BackendTLSPolicy for Service {service}", protocol.as_str());
            let expected = format!(
                "a BackendTLSPolicy in namespace {} with Service {} in its targetRefs, which says whom to trust",
                service.namespace, service.name
            );
            return Err(("port", reason, found, expected));
        };
        if is_stated && !protocol.is_secure() {
            // The owner of the Service has asked for TLS.
            let found = format!("{} though BackendTLSPolicy {name} is for the Service", protocol.as_str());
            return Err(("protocol", reason, found, "HTTPS or H2, or no protocol".to_owned()));
        }
        let tls = follow(self.inputs, (name, policy))
            .map_err(|(reason, found, expected)| ("name", reason, found, expected))?;
        Ok((protocol.secure(true), Some(Arc::new(tls))))
    }

    /// Whether the Service asks for affinity by client address.
    pub(super) fn has_client_affinity(&self, number: BackendNumber) -> bool {
        self.targets.get(number).is_some_and(|target| target.of.service.has_client_affinity)
    }

    /// The backends of some numbers with their endpoints, and the id of each number. What the last compilation found out
    /// `before`, from other objects, is taken over where it still holds; routes have `referred` to these, used or not.
    pub(super) fn finish(
        self,
        used: impl Iterator<Item = BackendNumber>,
        before: Option<(&BackendTable, &Inputs)>,
        referred: impl Iterator<Item = BackendNumber>,
    ) -> (BackendTable, Vec<Option<BackendId>>) {
        let Self { inputs, targets, .. } = self;
        let mut is_used = vec![false; targets.list.len()];
        used.for_each(|number| is_used[number as usize] = true);
        // Quick where a few new ones follow many that are in order.
        let Targets { list, order, .. } = &mut *targets;
        order.sort_by_key(|number| list[*number as usize].as_ref().map(|target| &target.key));
        let mut ids = vec![None; is_used.len()];
        let (mut keys, mut ports, mut tls) = (Vec::new(), Vec::new(), Vec::new());
        for number in order.iter().filter(|number| is_used[**number as usize]) {
            let Some(Target { key, of, tls: of_target }) = list[*number as usize].as_ref() else { continue };
            ids[*number as usize] = u32::try_from(keys.len()).ok().map(BackendId);
            keys.push(key.clone());
            ports.push(of.clone());
            tls.push(of_target.clone());
        }
        targets.prune(keys.len(), referred);
        (BackendTable::new(keys, (ports, tls), inputs, before), ids)
    }
}

/// Whether an object of the core group, by kind, namespace and name, may be referred to from a route of a kind in another
/// namespace: references inside a namespace are free, others need the consent of the target's namespace.
pub(super) fn is_granted(
    inputs: &Inputs,
    (kind, from): (&str, &str),
    (to_kind, namespace, name): (&str, &str, &str),
) -> bool {
    let first = ObjectName::new(namespace, "");
    let grants = inputs.objects.grants.starting_at(&first).take_while(|(name, _)| *name.namespace == *namespace);
    let (from, to) = ((GROUP, kind, from), ("", to_kind, name));
    grants.map(|(_, grant)| grant).any(|grant| grant.object.spec.allows(from, to))
}

/// The protocol that a reference at `at` states, `None` when it leaves the choice to the Service. A protocol that is not
/// known is reported and drops the rule.
///
/// # Errors
/// After such a report.
pub(super) fn stated_protocol(
    reference: &BackendRef,
    (rule, at): (usize, FieldPath<'_>),
    report: &mut Report<'_>,
) -> Result<Option<Protocol>, Refused> {
    let Some(stated) = &reference.protocol else { return Ok(None) };
    match stated.known() {
        Some(BackendProtocol::Http) => Ok(Some(Protocol::Http)),
        Some(BackendProtocol::H2c) => Ok(Some(Protocol::H2c)),
        Some(BackendProtocol::Https) => Ok(Some(Protocol::Https)),
        Some(BackendProtocol::H2) => Ok(Some(Protocol::H2)),
        None => {
            report.unknown(rule, at.field("protocol"), stated);
            Err(Refused)
        }
    }
}

/// The stated protocol decides, else the port's appProtocol.
///
/// # Errors
/// What was found and what is expected, for a port that cannot be used.
fn protocol(stated: Option<Protocol>, port: &ServicePort) -> Result<Protocol, (String, String)> {
    if let Some(transport) = &port.transport {
        return Err((format!("a port of protocol {transport}"), "a port of protocol TCP".to_owned()));
    }
    if let Some(stated) = stated {
        return Ok(stated);
    }
    match &*port.app_protocol {
        // gRPC has no HTTP/1.1 form: the name can only mean HTTP/2.
        "kubernetes.io/h2c" | "grpc" => Ok(Protocol::H2c),
        "grpcs" => Ok(Protocol::H2),
        "https" | "kubernetes.io/wss" => Ok(Protocol::Https),
        // `kubernetes.io/ws` is HTTP/1.1 with upgrades; names that we do not know say nothing against HTTP/1.1.
        _ => Ok(Protocol::Http),
    }
}
