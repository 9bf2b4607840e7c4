//! What a pod asks for, by annotations or by flags.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::problem::Problem;
use crate::sidecar::flags::{Incoming, Options, OptionsError, Outgoing, Proxy, ProxyAddress, ReadyWhen, ServiceName};
use crate::text::is_dns_label;

/// What the keys of all annotations begin with.
pub(super) const PREFIX: &str = "sidecar.tidegate.dev/";

/// Keys of annotations, without the prefix, and of `--set`.
pub(super) const KEYS: &[&str] =
    &["in", "out", "proxy", "services", "proxy-others", "self", "ready-when", "image", "cpu", "memory", "low-ports"];

/// Annotations that `inject` writes.
pub(super) const WRITTEN: &[&str] = &["injected", "restore"];

/// Values by key, as they were written, with the place that each comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes(pub(super) BTreeMap<String, Wish>);

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// A field of the pod, or a flag.
    pub(super) place: String,
    pub(super) value: String,
}

/// What a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) incoming: Vec<In>,
    /// Where `incoming` was asked for.
    pub(super) incoming_place: String,
    pub(super) out: Vec<Outgoing>,
    /// Where `out` was asked for.
    pub(super) out_place: String,
    /// Where the forward proxy listens.
    pub(super) proxy: Option<ProxyAddress>,
    /// Where `proxy` was asked for.
    pub(super) proxy_place: String,
    /// Services of the forward proxy.
    pub(super) services: Vec<ServiceName>,
    /// What becomes of requests for other hosts; `None`: what the sidecar does unless told otherwise.
    pub(super) proxy_others: Option<String>,
    pub(super) own_service: Option<String>,
    pub(super) ready_when: Vec<String>,
    pub(super) image: Option<String>,
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
    /// The sidecar may bind ports below 1024.
    pub(super) low_ports: bool,
}

/// A port of the application: `NAME`, or what `tidegate sidecar --in` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct In {
    pub(super) name: String,
    /// The rest of the flag with its number; `None`: the container's port tells it.
    pub(super) flag: Option<Incoming>,
    /// As it was written.
    pub(super) text: String,
}

impl In {
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            let flag: Incoming = text.parse()?;
            return Ok(Self { name: flag.name.clone(), flag: Some(flag), text: text.to_owned() });
        }
        // The number does not matter: the name is what is checked.
        match format!("{text}:1").parse::<Incoming>() {
            Ok(flag) => Ok(Self { name: flag.name, flag: None, text: text.to_owned() }),
            Err(_) => Err(format!("found {text:?}, expected NAME, NAME:PORT or NAME:PORT@ADDRESS:PORT")),
        }
    }
}

/// `NAME.NAMESPACE`, with the address that its place in the list gives, or what `tidegate sidecar --out` takes.
fn parse_out(index: usize, text: &str) -> Result<Outgoing, String> {
    if text.contains('@') {
        return text.parse();
    }
    let last = u8::try_from(index + 2).unwrap_or(u8::MAX);
    let address = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
    let refused = |_| format!("found {text:?}, expected NAME.NAMESPACE or NAME.NAMESPACE@ADDRESS");
    format!("{text}@{address}").parse().map_err(refused)
}

/// Digits, a point among them, and a unit of Kubernetes.
fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(part) && ["", "m", "k", "M", "G", "Ki", "Mi", "Gi"].contains(&unit)
}

impl Wishes {
    /// What the annotations of a pod say.
    pub(super) fn of_annotations(
        annotations: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<Self, Vec<Problem>> {
        let mut wishes = Self::default();
        let mut problems = Vec::new();
        for (name, value) in annotations.into_iter().flatten() {
            let Some(key) = name.strip_prefix(PREFIX).filter(|key| !WRITTEN.contains(key)) else { continue };
            let place = format!("metadata.annotations[{name}]");
            let known = KEYS.contains(&key);
            match value.as_str() {
                Some(value) if known => {
                    drop(wishes.0.insert(key.to_owned(), Wish { place, value: value.to_owned() }));
                }
                Some(_) => problems.push(Problem::error(place, "UnsupportedValue", name, known_annotations())),
                None => problems.push(Problem::error(place, "UnsupportedValue", &value.to_string(), "a text")),
            }
        }
        if problems.is_empty() { Ok(wishes) } else { Err(problems) }
    }

    /// These, and those of others where these say nothing.
    pub(super) fn or(&self, others: Self) -> Self {
        let mut all = others.0;
        all.extend(self.0.clone());
        Self(all)
    }

    /// What is asked for; `None` where nothing is to be served.
    pub(super) fn asked(&self) -> Result<Option<Asked>, Vec<Problem>> {
        if !["in", "out", "proxy"].iter().any(|key| self.0.contains_key(*key)) {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let proxy = self.list("proxy", &mut problems, |_, text| text.parse::<ProxyAddress>());
        if proxy.len() > 1 {
            let found = format!("{} addresses", proxy.len());
            problems.push(Problem::error(self.place("proxy"), "UnsupportedValue", &found, "one address"));
        }
        let services = self.list("services", &mut problems, |_, text| text.parse::<ServiceName>());
        for wish in ["services", "proxy-others"].iter().filter_map(|key| self.0.get(*key)) {
            if !self.0.contains_key("proxy") {
                let found = format!("{:?} without a proxy", wish.value);
                let expected = "an address for the proxy";
                problems.push(Problem::error(wish.place.clone(), "UnsupportedValue", &found, expected));
            }
        }
        let incoming = self.list("in", &mut problems, |_, text| In::parse(text));
        let out = self.list("out", &mut problems, parse_out);
        let ready_when =
            self.list("ready-when", &mut problems, |_, text| text.parse::<ReadyWhen>().map(|_| text.to_owned()));
        let mut one = |key: &str, is_valid: fn(&str) -> bool, expected: &str| {
            let wish = self.0.get(key)?;
            if !is_valid(&wish.value) {
                problems.push(Problem::error(
                    wish.place.clone(),
                    "UnsupportedValue",
                    &format!("{:?}", wish.value),
                    expected,
                ));
            }
            Some(wish.value.clone())
        };
        let asked = Asked {
            own_service: one("self", is_dns_label, "the name of a Service"),
            image: one("image", |text| !text.is_empty() && !text.contains(char::is_whitespace), "an image"),
            cpu: one("cpu", is_quantity, "a quantity such as 10m"),
            memory: one("memory", is_quantity, "a quantity such as 64Mi"),
            low_ports: one("low-ports", |text| ["true", "false"].contains(&text), "true or false").as_deref()
                != Some("false"),
            proxy: proxy.first().copied(),
            proxy_place: self.place("proxy"),
            services,
            proxy_others: one("proxy-others", |text| ["direct", "refuse"].contains(&text), "direct or refuse"),
            incoming_place: self.place("in"),
            out_place: self.place("out"),
            incoming,
            out,
            ready_when,
        };
        asked.check(&mut problems);
        if problems.is_empty() { Ok(Some(asked)) } else { Err(problems) }
    }

    /// That each of these says how something is to be which nothing asks for.
    pub(super) fn alone(&self) -> Vec<Problem> {
        let problem = |wish: &Wish| {
            let found = format!("{:?} where nothing is to be served", wish.value);
            let expected = format!("{PREFIX}in, {PREFIX}out or {PREFIX}proxy beside it");
            Problem::error(wish.place.clone(), "UnsupportedValue", &found, expected)
        };
        self.0.values().map(problem).collect()
    }

    fn place(&self, key: &str) -> String {
        self.0.get(key).map(|wish| wish.place.clone()).unwrap_or_default()
    }

    fn list<T>(
        &self,
        key: &str,
        problems: &mut Vec<Problem>,
        parse: impl Fn(usize, &str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for (index, text) in
            self.0.get(key).into_iter().flat_map(|wish| wish.value.split(',').map(str::trim)).enumerate()
        {
            match parse(index, text) {
                Ok(value) => parsed.push(value),
                Err(message) => problems.push(Problem::sentence(self.place(key), "UnsupportedValue", message)),
            }
        }
        parsed
    }
}

impl Asked {
    /// Checks what the sidecar itself would refuse at its start.
    fn check(&self, problems: &mut Vec<Problem>) {
        // The port of the application is not known yet, and is never in anything's way.
        let any_port = |one: &In| Incoming { name: one.name.clone(), app_port: 1, address: None };
        let incoming: Vec<_> = self.incoming.iter().map(any_port).collect();
        let services = self.services.clone();
        let proxy = |address| Proxy { address, services, refuses_others: false, cluster_domain: String::new() };
        let parts = [
            (&self.out_place, Options { out: self.out.clone(), ..Options::default() }),
            (&self.incoming_place, Options { incoming, ..Options::default() }),
            (&self.proxy_place, Options { proxy: self.proxy.map(proxy), ..Options::default() }),
        ];
        for (place, options) in parts {
            match options.validate() {
                Ok(()) | Err(OptionsError::Nothing) => {}
                Err(error) => {
                    let is_too_many = matches!(error, OptionsError::TooManyServices(_));
                    let reason = if is_too_many { "TooManyServices" } else { "UnsupportedValue" };
                    problems.push(Problem::sentence(place.clone(), reason, error.to_string()));
                }
            }
        }
    }
}

/// The annotations that a pod may have.
pub(super) fn known_annotations() -> String {
    format!("one of {PREFIX}{{{}}}", KEYS.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Asked>, Vec<Problem>> {
        let wish = |(key, value): &(&str, &str)| {
            ((*key).to_owned(), Wish { place: format!("--{key}"), value: (*value).to_owned() })
        };
        Wishes(pairs.iter().map(wish).collect()).asked()
    }

    #[test]
    fn services_without_an_address_have_that_of_their_place() {
        let asked =
            asked(&[("out", "a.x, b.y@127.0.0.9,c.z"), ("in", "http,admin:81@:15099")]).expect("valid").expect("asked");
        let addresses: Vec<_> = asked.out.iter().map(|out| out.address.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.2", "127.0.0.9", "127.0.0.4"]);
        assert_eq!(asked.incoming[0].flag, None);
        assert_eq!(asked.incoming[1].flag, "admin:81@:15099".parse().ok());
        assert!(asked.low_ports);
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_place() {
        for (pairs, place) in [
            (&[("out", "a")][..], "--out"),
            (&[("out", "a.x,,b.x")], "--out"),
            (&[("out", "a.x@127.0.0.3,b.x")], "--out"),
            (&[("out", "a.x,a.x")], "--out"),
            (&[("out", "a.x@10.0.0.1")], "--out"),
            (&[("in", "Http")], "--in"),
            (&[("in", "http:0")], "--in"),
            (&[("in", "http,http")], "--in"),
            (&[("in", "http"), ("ready-when", "http:80")], "--ready-when"),
            (&[("in", "http"), ("cpu", "much")], "--cpu"),
            (&[("in", "http"), ("memory", "1.Mi")], "--memory"),
            (&[("in", "http"), ("image", "")], "--image"),
            (&[("in", "http"), ("self", "a.b")], "--self"),
            (&[("in", "http"), ("low-ports", "yes")], "--low-ports"),
            (&[("proxy", "127.0.0.1:1"), ("services", "a.x"), ("proxy-others", "no")], "--proxy-others"),
            (&[("in", "http"), ("proxy-others", "refuse")], "--proxy-others"),
        ] {
            let problems = asked(pairs).expect_err("refused");
            assert_eq!(problems[0].path, place, "{pairs:?}: {problems:?}");
        }
        let many: Vec<String> = (0..201).map(|index| format!("s{index}.x@127.0.1.{index}")).collect();
        let problems = asked(&[("out", &many.join(","))]).expect_err("too many");
        assert_eq!(problems[0].reason, "TooManyServices");
    }
}
