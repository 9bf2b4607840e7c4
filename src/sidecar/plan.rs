//! Which addresses a sidecar binds, and what for.
//!
//! What the flags name is bound for as long as the process lives; the ports of `--out` follow from the Services and come
//! and go with them. Every listener keeps its number for as long as it, or a connection of it, is there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::flags::{FIRST_INCOMING_PORT, Incoming, Options, ServiceName};
use crate::compile::inputs::StaticListener;
use crate::kinds::Objects;
use crate::kinds::service::ServicePort;
use crate::model::ids::{ListenerId, ObjectName};
use crate::settings::{Listener, ListenerMode, ProxyProtocol};

/// What a sidecar serves.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub(super) options: Options,
    /// By the number of the listener; `None` where one is free.
    slots: Vec<Option<Planned>>,
    /// How long a listener that is closed may have connections.
    linger: Duration,
    /// Another one after every change of the listeners.
    revision: u64,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) purpose: Purpose,
    /// A flag names it, and not the port of a Service alone.
    pub(super) is_fixed: bool,
    pub(super) state: State,
}

/// How far a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Bound.
    Open,
    /// Its address cannot be bound, and why.
    Refused(String),
    /// Closed since this time; its last connections may still be there.
    Closed(Duration),
}

/// What has to be done so that the listeners are those that are planned.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// To be bound. What cannot be is told to [`Plan::refused`], and stands here again in the next step.
    pub open: Vec<(ListenerId, Arc<str>, Listener)>,
    /// To be closed.
    pub close: Vec<(ListenerId, Arc<str>)>,
    /// To be served in another way.
    pub change: Vec<(ListenerId, ListenerMode)>,
}

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Calls to a port of a Service.
    Out {
        /// The Service.
        service: ObjectName,
        /// Its port.
        port: u16,
        /// It does not speak HTTP.
        relay: bool,
    },
    /// Requests to a port of the application.
    In(Incoming),
}

impl Step {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.close.is_empty() && self.change.is_empty()
    }
}

impl Plan {
    /// Plans what the flags name by themselves. A listener that is closed has no connections any more after `linger`.
    #[must_use]
    pub fn new(options: Options, linger: Duration) -> Self {
        let mut fixed = Vec::new();
        for one in &options.out_ports {
            // One that does not exist yet answers 503, as one of HTTP can.
            let purpose = Purpose::Out { service: one.service.clone(), port: one.port, relay: false };
            // A port of a Service may be served at both places.
            let is_twice = options.out.iter().any(|out| out.service == one.service);
            let name = out_name(&one.service, one.port);
            let name = if is_twice { format!("{name}@{}", one.address).into() } else { name };
            fixed.push(Planned { name, address: one.address, purpose, is_fixed: true, state: State::Open });
        }
        for (incoming, number) in options.incoming.iter().zip(FIRST_INCOMING_PORT..) {
            let address = incoming.address.unwrap_or(SocketAddr::from(([0_u16; 8], number)));
            let (name, purpose) = (in_name(&incoming.name), Purpose::In(incoming.clone()));
            fixed.push(Planned { name, address, purpose, is_fixed: true, state: State::Open });
        }
        // In the order in which settings have them.
        fixed.sort_by(|one, other| one.name.cmp(&other.name));
        Self { options, slots: fixed.into_iter().map(Some).collect(), linger, revision: 0 }
    }

    /// What was asked for.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The listeners that the flags name by themselves, as the settings of the process have them: to be bound before
    /// anything else. Their numbers are those of their order.
    #[must_use]
    pub fn fixed(&self) -> BTreeMap<String, Listener> {
        let fixed = self.planned().map(|(_, planned)| planned).filter(|planned| planned.is_fixed);
        fixed.map(|planned| (planned.name.to_string(), planned.settings())).collect()
    }

    /// Takes over the Services that there are, at a time since any moment. The ports of a Service that is gone stay: it may
    /// come back, and calls get an answer meanwhile.
    pub fn step(&mut self, objects: &Objects, now: Duration) -> Step {
        let mut step = Step::default();
        let mut wanted = self.wanted(objects);
        for (id, slot) in (0..).map(ListenerId).zip(&mut self.slots) {
            let Some(planned) = slot else { continue };
            let Purpose::Out { service, port, relay } = &mut planned.purpose else { continue };
            let known = port_of(objects, service, *port);
            let speaks_now = known.map_or(*relay, |known| !speaks_http(known));
            let is_changed = std::mem::replace(relay, speaks_now) != speaks_now;
            let is_wanted =
                planned.is_fixed || wanted.remove(&planned.name).is_some() || !objects.services.contains_key(service);
            match (&planned.state, is_wanted) {
                (State::Open, true) if is_changed => step.change.push((id, planned.mode())),
                (State::Open, true) => {}
                (State::Open, false) => {
                    planned.state = State::Closed(now);
                    step.close.push((id, Arc::clone(&planned.name)));
                }
                (State::Refused(_) | State::Closed(_), true) => {
                    planned.state = State::Open;
                    step.open.push((id, Arc::clone(&planned.name), planned.settings()));
                }
                (State::Closed(since), false) if now < *since + self.linger => {}
                (State::Refused(_) | State::Closed(_), false) => {
                    *slot = None;
                    self.revision += 1;
                }
            }
        }
        for planned in wanted.into_values() {
            let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
            let Ok(number) = u32::try_from(free) else { break };
            step.open.push((ListenerId(number), Arc::clone(&planned.name), planned.settings()));
            if free == self.slots.len() {
                self.slots.push(None);
            }
            self.slots[free] = Some(planned);
        }
        self.revision += u64::from(!step.is_empty());
        step
    }

    /// Notes that a listener cannot be bound, and why.
    pub fn refused(&mut self, id: ListenerId, why: String) {
        if let Some(Some(planned)) = self.slots.get_mut(id.index()) {
            planned.state = State::Refused(why);
            self.revision += 1;
        }
    }

    /// Another number after every change of the listeners.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the next step tries again what could not be done.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.planned().any(|(_, planned)| matches!(planned.state, State::Refused(_)))
    }

    /// The listeners before the application.
    #[must_use]
    pub fn incoming(&self) -> Vec<ListenerId> {
        let incoming = self.planned().filter(|(_, planned)| matches!(planned.purpose, Purpose::In(_)));
        incoming.map(|(id, _)| id).collect()
    }

    /// What the ports of `--out` and `--services` ask for, of Services that are there.
    fn wanted(&self, objects: &Objects) -> BTreeMap<Arc<str>, Planned> {
        let of_service = |service: &ObjectName, place: &dyn Fn(u16) -> (Arc<str>, SocketAddr)| {
            let ports = objects.services.get(service).map(|service| &*service.object.ports).unwrap_or_default();
            let served = ports.iter().filter(|port| is_served(port)).filter_map(|one| Some((one, number(one)?)));
            let planned = served.map(|(of_service, port)| {
                let (name, address) = place(port);
                let purpose = Purpose::Out { service: service.clone(), port, relay: !speaks_http(of_service) };
                Planned { name, address, purpose, is_fixed: false, state: State::Open }
            });
            planned.collect::<Vec<_>>()
        };
        let out = self.options.out.iter().flat_map(|out| {
            let place = |port| (out_name(&out.service, port), SocketAddr::new(out.address, port));
            of_service(&out.service, &place)
        });
        let proxied = self.options.proxy.iter().flat_map(|proxy| &proxy.services).flat_map(|ServiceName(service)| {
            let key = format!("{}.{}", service.name, service.namespace);
            // Only the proxy has to know where.
            let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            of_service(service, &|port| (proxied_name(&key, port).into(), anywhere))
        });
        out.chain(proxied).map(|planned| (Arc::clone(&planned.name), planned)).collect()
    }

    /// The listeners, those included that have closed and may still have connections.
    pub(super) fn planned(&self) -> impl Iterator<Item = (ListenerId, &Planned)> {
        (0..).map(ListenerId).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    /// The listeners, as routes see them.
    pub(super) fn static_listeners(&self) -> Vec<StaticListener> {
        let listener = |planned: &Planned| StaticListener {
            name: Arc::clone(&planned.name),
            allowed_namespaces: match planned.purpose {
                Purpose::Out { .. } => None,
                Purpose::In(_) => Some(vec![self.options.namespace.to_string()]),
            },
            is_https: false,
            default_certificate: None,
        };
        // No route names one without a name.
        self.slots.iter().map(|slot| slot.as_ref().map(listener).unwrap_or_default()).collect()
    }
}

impl Planned {
    fn mode(&self) -> ListenerMode {
        match self.purpose {
            Purpose::Out { relay: false, .. } => ListenerMode::Outgoing,
            Purpose::Out { relay: true, .. } => ListenerMode::Relay,
            Purpose::In(_) => ListenerMode::Incoming,
        }
    }

    fn settings(&self) -> Listener {
        Listener {
            address: self.address,
            mode: self.mode(),
            tls: None,
            http2_prior_knowledge: true,
            proxy_protocol: ProxyProtocol::default(),
            trusted_forwarders: Vec::new(),
            health_path: None,
            allowed_namespaces: None,
        }
    }
}

/// A port of a Service, if both are there.
pub(super) fn port_of<'a>(objects: &'a Objects, service: &ObjectName, port: u16) -> Option<&'a ServicePort> {
    objects.services.get(service)?.object.ports.iter().find(|known| number(known) == Some(port))
}

/// Name of the listener for a port of a Service: no object can have it.
fn out_name(service: &ObjectName, port: u16) -> Arc<str> {
    format!("{}.{}:{port}", service.name, service.namespace).into()
}

/// Name of the listener that the forward proxy sends requests for a port of a Service `NAME.NAMESPACE` to.
#[must_use]
pub fn proxied_name(service: &str, port: u16) -> String {
    format!("{service}:{port}@proxy")
}

/// Name of the listener before a port of the application, as routes name it.
pub(super) fn in_name(name: &str) -> Arc<str> {
    format!("in-{name}").into()
}

/// The number of a port; what an API server keeps is always one.
pub(super) fn number(port: &ServicePort) -> Option<u16> {
    u16::try_from(port.port).ok().filter(|port| *port != 0)
}

/// A port that can be served: TCP.
pub(super) fn is_served(port: &ServicePort) -> bool {
    port.transport.is_none()
}

/// Whether connections to a port speak HTTP without TLS: its appProtocol says so, or without one its name.
pub(super) fn speaks_http(port: &ServicePort) -> bool {
    match &*port.app_protocol {
        "" => {
            let begins = |words: &[&str]| words.iter().any(|word| port.name.starts_with(word));
            begins(&["http", "grpc", "ws", "h2c"]) && !begins(&["https", "grpcs", "wss"])
        }
        "http" | "kubernetes.io/h2c" | "kubernetes.io/ws" | "grpc" => true,
        _ => false,
    }
}

/// Whether a port speaks HTTP/2 alone, as far as its name tells.
pub(super) fn is_http2_by_name(name: &str) -> bool {
    name.starts_with("grpc") || name.starts_with("h2c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_protocol_or_else_the_name_tells_what_a_port_speaks() {
        let table = [
            ("http", "", true),
            ("http-admin", "", true),
            ("http2", "", true),
            ("grpc-api", "", true),
            ("ws", "", true),
            ("h2c", "", true),
            ("https", "", false),
            ("grpcs", "", false),
            ("wss", "", false),
            ("", "", false),
            ("postgres", "", false),
            ("web", "http", true),
            ("web", "kubernetes.io/h2c", true),
            ("web", "kubernetes.io/ws", true),
            ("web", "grpc", true),
            ("http", "https", false),
            ("http", "example.com/own", false),
        ];
        for (name, app_protocol, expected) in table {
            let port = ServicePort {
                name: name.into(),
                port: 80,
                app_protocol: app_protocol.into(),
                ..ServicePort::default()
            };
            assert_eq!(speaks_http(&port), expected, "{name:?} {app_protocol:?}");
        }
    }
}
