//! What is kept from one compilation to the next changes no result: after any steps, in any order, everything is as if it
//! were compiled and published for the first time.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::compile::{Compiler, compile};
use tidegate::live;
use tidegate::model::ids::ObjectName;
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};

use super::sourced;

const SERVICES: [&str; 2] = ["a", "b"];
const NAMESPACES: [&str; 2] = ["m", "n"];

/// Address, whether it is ready, and whether it terminates.
type Pod = (u8, bool, bool);

/// One change of one object; numbers choose the namespace, the Service and the variant.
#[derive(Clone, Debug)]
enum Step {
    /// A slice of a Service, or of none where the number is too large.
    Slice {
        at: (usize, usize),
        service: usize,
        port: i32,
        pods: Vec<Pod>,
    },
    SliceGone {
        at: (usize, usize),
    },
    Endpoints {
        at: (usize, usize),
        pods: Vec<Pod>,
    },
    EndpointsGone {
        at: (usize, usize),
    },
    Service {
        at: (usize, usize),
        has_selector: bool,
        ports: Vec<u16>,
    },
    ServiceGone {
        at: (usize, usize),
    },
    Route {
        at: (usize, usize),
        route: Route,
    },
    RouteGone {
        at: (usize, usize),
    },
    Grant {
        namespace: usize,
    },
    GrantGone {
        namespace: usize,
    },
    /// A policy of TLS for a Service, which trusts the system or a ConfigMap.
    Policy {
        at: (usize, usize),
        service: usize,
        created: u8,
        trust: Option<usize>,
    },
    PolicyGone {
        at: (usize, usize),
    },
    /// With an authority, or with nothing of use.
    ConfigMap {
        at: (usize, usize),
        is_good: bool,
    },
    ConfigMapGone {
        at: (usize, usize),
    },
    Namespace {
        namespace: usize,
        is_chosen: bool,
    },
    NamespaceGone {
        namespace: usize,
    },
    /// Whether hostnames have owners is a setting, which changes with a restart only; here it does with any step.
    Owners {
        have: bool,
    },
    Nothing,
}

/// What a route says; numbers choose from small tables, so that routes meet.
#[derive(Clone, Debug)]
struct Route {
    age: u8,
    hosts: Vec<usize>,
    parent: Parent,
    path: usize,
    hash: bool,
    refs: Vec<(usize, usize, u8, bool)>,
    /// It has a rule of this kind besides.
    second: Option<Second>,
}

#[derive(Clone, Debug)]
enum Parent {
    All,
    Listener(usize),
    Route((usize, usize)),
}

#[derive(Clone, Debug)]
enum Second {
    /// Hands a prefix to other routes: of the same namespace, of all, or of chosen ones.
    Delegate(usize),
    /// Has an expression in its match and one in a filter.
    Expressions,
    /// Cannot be served.
    Broken,
}

const HOSTS: [&str; 3] = ["a.test", "b.test", "*.test"];
const PATHS: [&str; 3] = ["/", "/a", "/a/b"];
const LISTENERS: [&str; 3] = ["http", "internal", "none"];
const FROM: [&str; 3] = ["Same", "All", "Selector"];

fn route() -> impl Strategy<Value = Route> {
    let at = || (0..NAMESPACES.len(), 0..SERVICES.len());
    let refs = prop::collection::vec((0..NAMESPACES.len(), 0..SERVICES.len(), 0..2u8, any::<bool>()), 0..4);
    let hosts = prop::sample::subsequence((0..HOSTS.len()).collect::<Vec<_>>(), 0..3);
    let parent = prop_oneof![
        2 => Just(Parent::All),
        1 => (0..LISTENERS.len()).prop_map(Parent::Listener),
        2 => at().prop_map(Parent::Route),
    ];
    let second = prop_oneof![
        2 => (0..FROM.len()).prop_map(Second::Delegate),
        1 => Just(Second::Expressions),
        1 => Just(Second::Broken),
    ];
    let second = prop::option::of(second);
    (0..3u8, hosts, parent, 0..PATHS.len(), any::<bool>(), refs, second).prop_map(
        |(age, hosts, parent, path, hash, refs, second)| Route { age, hosts, parent, path, hash, refs, second },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..NAMESPACES.len(), 0..SERVICES.len());
    let pods = || prop::collection::vec((0..6u8, prop::bool::weighted(0.7), prop::bool::weighted(0.2)), 0..4);
    // An address of 4 or 5 is none that may be used.
    let port = prop::sample::select(vec![8080, 9090, 70_000]);
    let slice = (at(), 0..SERVICES.len() + 1, port, pods()).prop_map(|(at, service, port, pods)| Step::Slice {
        at,
        service,
        port,
        pods,
    });
    let ports = prop::sample::subsequence(vec![80, 81], 0..=2);
    let step = prop_oneof![
        8 => slice,
        3 => at().prop_map(|at| Step::SliceGone { at }),
        2 => (at(), pods()).prop_map(|(at, pods)| Step::Endpoints { at, pods }),
        1 => at().prop_map(|at| Step::EndpointsGone { at }),
        2 => (at(), any::<bool>(), ports)
            .prop_map(|(at, has_selector, ports)| Step::Service { at, has_selector, ports }),
        1 => at().prop_map(|at| Step::ServiceGone { at }),
        8 => (at(), route()).prop_map(|(at, route)| Step::Route { at, route }),
        2 => at().prop_map(|at| Step::RouteGone { at }),
        1 => (0..NAMESPACES.len()).prop_map(|namespace| Step::Grant { namespace }),
        1 => (0..NAMESPACES.len()).prop_map(|namespace| Step::GrantGone { namespace }),
        3 => (at(), 0..SERVICES.len(), 0..3u8, prop::option::of(0..SERVICES.len()))
            .prop_map(|(at, service, created, trust)| Step::Policy { at, service, created, trust }),
        1 => at().prop_map(|at| Step::PolicyGone { at }),
        2 => (at(), any::<bool>()).prop_map(|(at, is_good)| Step::ConfigMap { at, is_good }),
        1 => at().prop_map(|at| Step::ConfigMapGone { at }),
        1 => (0..NAMESPACES.len(), any::<bool>())
            .prop_map(|(namespace, is_chosen)| Step::Namespace { namespace, is_chosen }),
        1 => (0..NAMESPACES.len()).prop_map(|namespace| Step::NamespaceGone { namespace }),
        1 => any::<bool>().prop_map(|have| Step::Owners { have }),
        1 => Just(Step::Nothing),
    ];
    prop::collection::vec(step, 1..40)
}

/// A name in a namespace; of a Service and of what belongs to it.
fn name((namespace, service): (usize, usize)) -> ObjectName {
    ObjectName::new(NAMESPACES[namespace], SERVICES[service])
}

/// The certificate of an authority, always the same one.
fn authority() -> &'static str {
    static MADE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        rcgen::generate_simple_self_signed(vec!["authority.test".to_owned()]).expect("made").cert.pem()
    });
    &MADE
}

fn address(pod: u8) -> String {
    match pod {
        4 => "127.0.0.1".to_owned(),
        5 => "nonsense".to_owned(),
        _ => format!("10.0.0.{pod}"),
    }
}

fn take(step: &Step, inputs: &mut Inputs) {
    let objects = &mut inputs.objects;
    match step {
        Step::Slice { at, service, port, pods } => {
            let endpoint = |(pod, ready, terminating): &Pod| {
                json!({ "addresses": [address(*pod)], "targetRef": { "kind": "Pod", "name": format!("p{pod}") },
                    "conditions": { "ready": ready, "serving": true, "terminating": terminating } })
            };
            let endpoints: Vec<_> = pods.iter().map(endpoint).collect();
            let of = SERVICES.get(*service).copied().unwrap_or("nobody");
            let slice = json!({ "metadata": { "labels": { "kubernetes.io/service-name": of } }, "addressType": "IPv4",
                "ports": [{ "port": port }], "endpoints": endpoints });
            objects.slices.insert(name(*at), sourced(slice));
        }
        Step::SliceGone { at } => drop(objects.slices.remove(&name(*at))),
        Step::Endpoints { at, pods } => {
            let addresses: Vec<_> = pods.iter().map(|(pod, ..)| json!({ "ip": address(*pod) })).collect();
            let subsets = json!({ "subsets": [{ "addresses": addresses, "ports": [{ "port": 8080 }] }] });
            objects.endpoints.insert(name(*at), sourced(subsets));
        }
        Step::EndpointsGone { at } => drop(objects.endpoints.remove(&name(*at))),
        Step::Service { at, has_selector, ports } => {
            let ports: Vec<_> = ports.iter().map(|port| json!({ "port": port })).collect();
            let selector = if *has_selector { json!({ "app": "x" }) } else { json!({}) };
            objects.services.insert(name(*at), sourced(json!({ "spec": { "selector": selector, "ports": ports } })));
        }
        Step::ServiceGone { at } => drop(objects.services.remove(&name(*at))),
        Step::Route { at, route } => drop(objects.routes.insert(name(*at), sourced(route.manifest()))),
        Step::RouteGone { at } => drop(objects.routes.remove(&name(*at))),
        Step::Grant { namespace } => {
            let from: Vec<_> = NAMESPACES
                .iter()
                .map(|from| json!({ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": from }))
                .collect();
            let grant = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {},
                "spec": { "from": from, "to": [{ "group": "", "kind": "Service" }] } });
            objects.grants.insert(ObjectName::new(NAMESPACES[*namespace], "all"), sourced(grant));
        }
        Step::GrantGone { namespace } => drop(objects.grants.remove(&ObjectName::new(NAMESPACES[*namespace], "all"))),
        Step::Policy { at, service, created, trust } => {
            let trust = trust.map_or_else(
                || json!({ "hostname": "a.test", "wellKnownCACertificates": "System" }),
                |map| {
                    let references = json!([{ "group": "", "kind": "ConfigMap", "name": SERVICES[map] }]);
                    json!({ "hostname": "a.test", "caCertificateRefs": references })
                },
            );
            let policy = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                "metadata": { "creationTimestamp": format!("2026-01-0{}T00:00:00Z", created + 1) },
                "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": SERVICES[*service] }],
                    "validation": trust } });
            objects.tls_policies.insert(name(*at), sourced(policy));
        }
        Step::PolicyGone { at } => drop(objects.tls_policies.remove(&name(*at))),
        Step::ConfigMap { at, is_good } => {
            let data = if *is_good { json!({ "ca.crt": authority() }) } else { json!({}) };
            objects.config_maps.insert(name(*at), sourced(json!({ "data": data })));
        }
        Step::ConfigMapGone { at } => drop(objects.config_maps.remove(&name(*at))),
        Step::Namespace { namespace, is_chosen } => {
            let name = NAMESPACES[*namespace];
            let labels = if *is_chosen { json!({ "chosen": "yes" }) } else { json!({}) };
            let manifest = json!({ "metadata": { "name": name, "labels": labels } });
            objects.namespaces.insert(ObjectName::new("", name), sourced(manifest));
        }
        Step::NamespaceGone { namespace } => {
            objects.namespaces.remove(&ObjectName::new("", NAMESPACES[*namespace]));
        }
        Step::Owners { have } => inputs.hostnames_have_owners = *have,
        Step::Nothing => {}
    }
}

impl Route {
    fn manifest(&self) -> Value {
        let Self { age, hosts, parent, path, hash, refs, second } = self;
        let reference = |(namespace, service, tier, is_h2c): &(usize, usize, u8, bool)| {
            let mut reference = json!({ "namespace": NAMESPACES[*namespace], "name": SERVICES[*service], "port": 80,
                "tier": tier });
            // Without a protocol, a policy of the Service decides.
            if *is_h2c {
                reference["protocol"] = json!("H2C");
            }
            reference
        };
        let refs: Vec<_> = refs.iter().map(reference).collect();
        let algorithm = match hash {
            true => json!({ "algorithm": "ConsistentHash", "hashKeys": [{ "type": "SourceIP" }] }),
            false => json!({ "algorithm": "RoundRobin" }),
        };
        let parents = match parent {
            Parent::All => json!([]),
            Parent::Listener(number) => {
                json!([{ "group": "tidegate.dev", "kind": "Listener", "name": LISTENERS[*number] }])
            }
            Parent::Route(at) => {
                let ObjectName { namespace, name } = name(*at);
                json!([{ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": *namespace, "name": *name,
                    "sectionName": "second" }])
            }
        };
        let matches = json!([{ "path": { "type": "PathPrefix", "value": PATHS[*path] } }]);
        // Filters refer to Services, too.
        let mirrors = refs.last().map(|reference: &Value| {
            json!({ "type": "RequestMirror", "requestMirror": { "backendRef": {
                "namespace": reference["namespace"], "name": reference["name"], "port": 80 } } })
        });
        let mirrors: Vec<Value> = mirrors.into_iter().collect();
        let mut rules = vec![json!({ "matches": matches, "backendRefs": refs, "loadBalancer": algorithm })];
        rules.extend(second.as_ref().map(|second| match second {
            Second::Delegate(from) => json!({ "name": "second", "matches": matches, "timeouts": { "request": "3s" },
                "filters": mirrors, "delegate": { "namespaces": { "from": FROM[*from], "selector": { "matchLabels": { "chosen": "yes" } } } } }),
            Second::Expressions => {
                let mut filters = mirrors.clone();
                filters.push(json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceRegularExpression",
                    "replaceRegularExpression": { "pattern": "^/a/([0-9]+)$", "substitution": "/b/$1" } } } }));
                json!({ "name": "second",
                    "matches": [{ "path": { "type": "RegularExpression", "value": "/a/[0-9]+" } }],
                    "filters": filters, "backendRefs": refs })
            }
            Second::Broken => json!({ "name": "second", "matches": matches, "backendRefs": refs,
                "loadBalancer": { "algorithm": "Broken" } }),
        }));
        let hosts: Vec<_> = hosts.iter().map(|host| HOSTS[*host]).collect();
        json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute",
            "metadata": { "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1) },
            "spec": { "parentRefs": parents, "hostnames": hosts, "rules": rules } })
    }
}

fn publisher() -> live::Publisher {
    let metrics = Metrics::new(MetricsOptions { workers: 0, listeners: Vec::new(), max_series: 10 });
    // No time passes before the epoch: what is published at different times is the same.
    let epoch = tokio::time::Instant::now() + Duration::from_secs(3_600);
    live::channel(0, metrics, epoch).0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_to_what_is_compiled_at_once(steps in steps(), taken_together in any::<u64>()) {
        let listener = |name: &&str| StaticListener { name: (*name).into(), ..StaticListener::default() };
        let mut inputs = Inputs {
            listeners: LISTENERS[..2].iter().map(listener).collect(),
            gateway_class_name: "tidegate".into(),
            controller_name: "tidegate.dev/controller".into(),
            ..Inputs::default()
        };
        let (mut compiler, mut published) = (Compiler::default(), publisher());
        let mut random = fastrand::Rng::with_seed(taken_together);
        let mut refs = Vec::new();
        for at in [(0, 0), (0, 1), (1, 0)] {
            take(&Step::Service { at, has_selector: at.1 == 0, ports: vec![80] }, &mut inputs);
            refs.push((at.0, at.1, at.1 as u8, at.0 == 0));
        }
        let (hosts, parent, second) = (Vec::new(), Parent::All, None);
        let first = Route { age: 0, hosts, parent, path: 0, hash: true, refs, second };
        take(&Step::Route { at: (0, 0), route: first }, &mut inputs);
        for (number, step) in steps.iter().enumerate() {
            // Other versions of the maps stay as they were, as for a source that goes on while a version is compiled.
            let before = inputs.clone();
            take(step, &mut inputs);
            if random.bool() && number + 1 < steps.len() {
                continue;
            }
            let (kept, fresh) = (compiler.compile(&inputs), compile(&inputs));
            prop_assert_eq!(&kept.snapshot, &fresh.snapshot, "{:?}", step);
            prop_assert_eq!(&kept.diagnostics, &fresh.diagnostics, "{:?}", step);
            prop_assert_eq!(&kept.statuses, &fresh.statuses, "{:?}", step);
            let mut first = publisher();
            published.publish(kept.snapshot);
            first.publish(fresh.snapshot);
            let balancers = |publisher: &live::Publisher| format!("{:?}", publisher.view().current().balancers());
            prop_assert_eq!(balancers(&published), balancers(&first), "{:?}", step);
            drop(before);
        }
    }
}
