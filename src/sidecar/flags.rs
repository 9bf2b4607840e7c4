//! What a sidecar is asked for: the values of its flags.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::model::ids::ObjectName;
use crate::settings::parse_address;
use crate::text::is_dns_label;

/// Most Services that one sidecar serves.
pub const MOST_SERVICES: usize = 200;

/// Most namespaces whose Services one sidecar serves.
pub const MOST_NAMESPACES: usize = 20;

/// Most endpoints of all these Services together that a sidecar is made for: each sidecar is told of every change of every
/// one of them, so beyond this its memory and what an API server sends to it are more than a pod's share.
pub const MOST_ENDPOINTS: usize = 5_000;

/// First port on which requests to the application are taken, unless a flag says another.
pub const FIRST_INCOMING_PORT: u16 = 15080;

/// All that a sidecar is asked for; by default nothing, which is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The namespace of the pod.
    pub namespace: Arc<str>,
    /// Services that the application calls on all their ports.
    pub out: Vec<Outgoing>,
    /// Single ports of Services that it calls.
    pub out_ports: Vec<OutgoingPort>,
    /// Ports of the application.
    pub incoming: Vec<Incoming>,
    /// The Service of the pod: a backendRef of an incoming route that names it means the application.
    pub own_service: Option<Arc<str>>,
    /// The forward proxy for the application.
    pub proxy: Option<Proxy>,
}

/// A forward proxy, for applications that do not call loopback addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens, on loopback.
    pub address: ProxyAddress,
    /// The Services whose names lead to their endpoints by routes.
    pub services: Vec<ServiceName>,
    /// Requests for other hosts are refused, instead of going straight there.
    pub refuses_others: bool,
    /// The end of the long names of Services.
    pub cluster_domain: String,
}

/// `ADDRESS:PORT` on loopback: whoever could reach another one would call in the pod's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyAddress(pub SocketAddr);

/// `NAME.NAMESPACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(pub ObjectName);

/// A Service with a loopback address of its own: `NAME.NAMESPACE@127.0.0.2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The Service.
    pub service: ObjectName,
    /// Where all its ports are served.
    pub address: IpAddr,
}

/// One port of a Service: `NAME.NAMESPACE:PORT@127.0.0.1:15101`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingPort {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// Where it is served.
    pub address: SocketAddr,
}

/// A port of the application: `NAME:PORT[@ADDRESS:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Name of the port; routes name the listener `in-NAME`.
    pub name: String,
    /// Where the application listens, on 127.0.0.1.
    pub app_port: u16,
    /// Where its requests are taken; `None`: the next of 15080, 15081, …
    pub address: Option<SocketAddr>,
}

/// What makes a sidecar ready beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// The application listens on a port of 127.0.0.1.
    Tcp(u16),
    /// Nothing else.
    Started,
}

/// Flags that cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Nothing is asked for.
    #[error("found no --out, --out-port, --in and --proxy, expected at least one of them")]
    Nothing,
    /// A proxy that no Service is reached by.
    #[error("--proxy: found no --services, expected the Services whose requests it balances")]
    NoServices,
    /// Too many Services.
    #[error("--out, --out-port and --services: found {0} Services, expected at most {MOST_SERVICES}")]
    TooManyServices(usize),
    /// Too many namespaces, in each of which the API server is watched.
    #[error("--out, --out-port and --services: found Services of {0} namespaces, expected at most {MOST_NAMESPACES}")]
    TooManyNamespaces(usize),
    /// Something stands there twice.
    #[error("{flag}: found {found} twice, expected {expected}")]
    Twice {
        /// The flag.
        flag: &'static str,
        /// What stands there twice.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
}

impl Options {
    /// The Services that the application calls.
    #[must_use]
    pub fn services(&self) -> BTreeSet<ObjectName> {
        let out = self.out.iter().map(|one| &one.service);
        let proxied = self.proxy.iter().flat_map(|proxy| &proxy.services).map(|one| &one.0);
        out.chain(self.out_ports.iter().map(|one| &one.service)).chain(proxied).cloned().collect()
    }

    /// Checks what single flags cannot say.
    ///
    /// # Errors
    /// The first thing that cannot work.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.out.is_empty() && self.out_ports.is_empty() && self.incoming.is_empty() && self.proxy.is_none() {
            return Err(OptionsError::Nothing);
        }
        let proxied = self.proxy.as_ref().map(|proxy| &proxy.services);
        if proxied.is_some_and(Vec::is_empty) {
            return Err(OptionsError::NoServices);
        }
        let services = self.services();
        if services.len() > MOST_SERVICES {
            return Err(OptionsError::TooManyServices(services.len()));
        }
        let namespaces: BTreeSet<_> = services.iter().map(|service| &service.namespace).collect();
        if namespaces.len() > MOST_NAMESPACES {
            return Err(OptionsError::TooManyNamespaces(namespaces.len()));
        }
        let twice = |flag, found: Option<String>, expected| match found {
            Some(found) => Err(OptionsError::Twice { flag, found, expected }),
            None => Ok(()),
        };
        twice("--out", repeated(self.out.iter().map(|one| one.address)), "an address for each Service")?;
        twice("--out", repeated(self.out.iter().map(|one| one.service.clone())), "each Service once")?;
        let ports = self.out_ports.iter().map(|one| format!("{}:{}", one.service, one.port));
        twice("--out-port", repeated(ports), "each port of a Service once")?;
        let proxied = proxied.into_iter().flatten().map(|one| one.0.clone());
        twice("--services", repeated(proxied), "each Service once")?;
        twice("--in", repeated(self.incoming.iter().map(|one| one.name.clone())), "a name for each port")
    }
}

/// The first element that is equal to an earlier one.
fn repeated<T: PartialEq + ToString>(elements: impl Iterator<Item = T>) -> Option<String> {
    let mut seen = Vec::new();
    for element in elements {
        if seen.contains(&element) {
            return Some(element.to_string());
        }
        seen.push(element);
    }
    None
}

impl Proxy {
    /// `NAME.NAMESPACE` of each Service by all its names, for a pod in a namespace.
    #[must_use]
    pub fn names(&self, namespace: &str) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for ServiceName(service) in &self.services {
            let key = format!("{}.{}", service.name, service.namespace);
            for name in service_names(service, namespace, &self.cluster_domain) {
                drop(names.insert(name, key.clone()));
            }
        }
        names
    }
}

/// Names of a Service, as applications in a namespace write them.
#[must_use]
pub fn service_names(service: &ObjectName, own_namespace: &str, cluster_domain: &str) -> Vec<String> {
    let ObjectName { namespace, name } = service;
    let short = (**namespace == *own_namespace).then(|| name.to_string());
    let long = ["".to_owned(), ".svc".to_owned(), format!(".svc.{cluster_domain}")];
    short.into_iter().chain(long.iter().map(|end| format!("{name}.{namespace}{end}"))).collect()
}

/// `NAME.NAMESPACE`.
fn service(text: &str) -> Option<ObjectName> {
    let (name, namespace) = text.split_once('.')?;
    (is_dns_label(name) && is_dns_label(namespace)).then(|| ObjectName::new(namespace, name))
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

impl FromStr for Outgoing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(name, address)| {
            let address: IpAddr = address.parse().ok().filter(IpAddr::is_loopback)?;
            Some(Self { service: service(name)?, address })
        });
        parsed.ok_or_else(|| {
            format!("found {text:?}, expected NAME.NAMESPACE@ADDRESS with a loopback address, such as payments.shop@127.0.0.2")
        })
    }
}

impl FromStr for OutgoingPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(name, address)| {
            let (name, number) = name.rsplit_once(':')?;
            // Whoever could reach another address would call in the pod's name.
            let address: SocketAddr = address.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())?;
            Some(Self { service: service(name)?, port: port(number)?, address })
        });
        parsed.ok_or_else(|| {
            format!(
                "found {text:?}, expected NAME.NAMESPACE:PORT@ADDRESS:PORT with a loopback address, such as \
                 payments.shop:80@127.0.0.1:15101"
            )
        })
    }
}

impl FromStr for ProxyAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = parse_address(text).ok().filter(|address| address.ip().is_loopback());
        address.map(Self).ok_or_else(|| {
            format!("found {text:?}, expected ADDRESS:PORT with a loopback address, such as 127.0.0.1:15001")
        })
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        service(text).map(Self).ok_or_else(|| format!("found {text:?}, expected NAME.NAMESPACE, such as payments.shop"))
    }
}

impl FromStr for ReadyWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("tcp:").and_then(port)) {
            ("started", _) => Ok(Self::Started),
            (_, Some(port)) => Ok(Self::Tcp(port)),
            (_, None) => Err(format!("found {text:?}, expected tcp:PORT or started")),
        }
    }
}

impl FromStr for Incoming {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('@').map_or((text, None), |(name, address)| (name, Some(address)));
        let parsed = name.split_once(':').and_then(|(name, number)| {
            let address = address.map(parse_address).transpose().ok()?;
            // The names of ports (IANA service names) have at most 15 characters.
            (is_dns_label(name) && name.len() <= 15).then_some(())?;
            Some(Self { name: name.to_owned(), app_port: port(number)?, address })
        });
        parsed.ok_or_else(|| {
            format!(
                "found {text:?}, expected NAME:PORT or NAME:PORT@ADDRESS:PORT, such as http:8080 or http:8080@:15080"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_refused() {
        let out: Outgoing = "payments.shop@127.0.0.2".parse().expect("valid");
        assert_eq!(
            out,
            Outgoing { service: ObjectName::new("shop", "payments"), address: "127.0.0.2".parse().unwrap() }
        );
        for bad in [
            "payments@127.0.0.2",
            "payments.shop",
            "payments.shop@10.0.0.1",
            "Payments.shop@127.0.0.2",
            "a.b.c@127.0.0.2",
        ] {
            bad.parse::<Outgoing>().expect_err(bad);
        }
        let one: OutgoingPort = "payments.shop:80@127.0.0.1:15101".parse().expect("valid");
        assert_eq!((one.port, one.address), (80, "127.0.0.1:15101".parse().unwrap()));
        for bad in [
            "payments.shop@127.0.0.1:1",
            "payments.shop:0@127.0.0.1:1",
            "payments.shop:80@10.0.0.1:1",
            "payments.shop:80@127.0.0.1",
        ] {
            bad.parse::<OutgoingPort>().expect_err(bad);
        }
        let incoming: Incoming = "http:8080".parse().expect("valid");
        assert_eq!(incoming, Incoming { name: "http".to_owned(), app_port: 8080, address: None });
        let incoming: Incoming = "http:8080@127.0.0.1:1".parse().expect("valid");
        assert_eq!(incoming.address, Some("127.0.0.1:1".parse().unwrap()));
        for bad in ["10.0.0.1:15001", "127.0.0.1", "localhost:1"] {
            bad.parse::<ProxyAddress>().expect_err(bad);
        }
        for bad in ["http", "http:x", "http:0", "a-name-of-16-chars:80", "http:80@x", ":80"] {
            bad.parse::<Incoming>().expect_err(bad);
        }
    }

    #[test]
    fn flags_that_cannot_work_together_are_refused() {
        assert_eq!(Options::default().validate(), Err(OptionsError::Nothing));
        let out = |texts: &[&str]| Options {
            out: texts.iter().map(|text| text.parse().expect("valid")).collect(),
            ..Options::default()
        };
        out(&["a.x@127.0.0.2", "b.x@127.0.0.3"]).validate().expect("both can be served");
        let error = out(&["a.x@127.0.0.2", "b.x@127.0.0.2"]).validate().expect_err("one address");
        assert_eq!(error.to_string(), "--out: found 127.0.0.2 twice, expected an address for each Service");
        let error = out(&["a.x@127.0.0.2", "a.x@127.0.0.3"]).validate().expect_err("one Service");
        assert_eq!(error.to_string(), "--out: found x/a twice, expected each Service once");
        let proxy = |services: &[&str]| Options {
            proxy: Some(Proxy {
                address: "127.0.0.1:15001".parse().expect("valid"),
                services: services.iter().map(|text| text.parse().expect("valid")).collect(),
                refuses_others: false,
                cluster_domain: "cluster.local".to_owned(),
            }),
            ..Options::default()
        };
        proxy(&["a.x", "b.x"]).validate().expect("both can be served");
        assert_eq!(proxy(&[]).validate(), Err(OptionsError::NoServices));
        let error = proxy(&["a.x", "a.x"]).validate().expect_err("one Service");
        assert_eq!(error.to_string(), "--services: found x/a twice, expected each Service once");
    }

    #[test]
    fn more_services_and_namespaces_than_a_pod_calls_are_refused() {
        let out = |services: usize, namespaces: usize| Options {
            out_ports: (0..services)
                .map(|number| OutgoingPort {
                    service: ObjectName::new(format!("n{}", number % namespaces), format!("s{number}")),
                    port: 80,
                    address: "127.0.0.1:0".parse().expect("an address"),
                })
                .collect(),
            ..Options::default()
        };
        out(MOST_SERVICES, MOST_NAMESPACES).validate().expect("the bounds themselves");
        let error = out(MOST_SERVICES + 1, 1).validate().expect_err("too many Services");
        assert_eq!(error.to_string(), "--out, --out-port and --services: found 201 Services, expected at most 200");
        let error = out(21, 21).validate().expect_err("too many namespaces");
        assert_eq!(
            error.to_string(),
            "--out, --out-port and --services: found Services of 21 namespaces, expected at most 20"
        );
    }
}
