use serde_json::{Value, json};

use super::super::flags::Options;
use super::*;
use crate::compile::Compiler;
use crate::compile::inputs::StaticListener;
use crate::model::backend::Protocol;
use crate::model::ids::ListenerId;
use crate::model::matching::RequestView;
use crate::model::route::Rule;

/// A sidecar in namespace `shop`, beside an application on port 8080, that calls both ports of Service `id/users`.
fn options() -> Options {
    Options {
        namespace: "shop".into(),
        out: vec!["users.id@127.0.0.2".parse().unwrap()],
        out_ports: Vec::new(),
        incoming: vec!["http:8080".parse().unwrap()],
        own_service: Some("cart".into()),
        proxy: None,
    }
}

/// How long a closed listener may have connections.
const LINGER: Duration = Duration::from_secs(6);

struct Bed {
    inputs: Inputs,
}

impl Bed {
    fn new() -> Self {
        let inputs = Inputs {
            gateway_class_name: "tidegate".into(),
            // Of another process: the sidecar has its own.
            listeners: vec![StaticListener { name: "web".into(), ..StaticListener::default() }],
            ..Inputs::default()
        };
        let ports = json!([{ "name": "http", "port": 80 }, { "name": "http-admin", "port": 81 }]);
        Self { inputs }.service("id/users", &ports).service("shop/cart", &json!([{ "name": "http", "port": 80 }]))
    }

    fn service(mut self, name: &str, ports: &Value) -> Self {
        self.inputs.objects.services.insert(named(name), of_app(own(json!({ "spec": { "ports": ports } }))));
        self
    }

    fn route(mut self, name: &str, spec: &Value) -> Self {
        let route =
            json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": {}, "spec": spec });
        self.inputs.objects.routes.insert(named(name), of_app(own(route)));
        self
    }

    fn view(&self, options: Options) -> (Inputs, Vec<String>) {
        let mut view = View::new(Plan::new(options, LINGER));
        view.step(&self.inputs.objects, Duration::ZERO);
        let (inputs, findings) = view.apply(&self.inputs);
        (inputs, findings.iter().map(ToString::to_string).collect())
    }

    /// The listeners of each route.
    fn bound(&self) -> Vec<(String, Vec<String>)> {
        let (inputs, _) = self.view(options());
        let parents =
            |route: &Sourced<Route>| route.object.spec.parent_refs.iter().map(|parent| parent.name.clone()).collect();
        inputs.objects.routes.iter().map(|(name, route)| (name.to_string(), parents(route))).collect()
    }
}

fn named(name: &str) -> ObjectName {
    let (namespace, name) = name.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn parents(list: &[Value]) -> Value {
    json!({ "parentRefs": list, "rules": [{ "backendRefs": [{ "name": "users", "namespace": "id", "port": 80 }] }] })
}

fn users() -> Value {
    json!({ "group": "", "kind": "Service", "name": "users", "namespace": "id" })
}

fn pairs(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    list.iter()
        .map(|(name, parents)| ((*name).to_owned(), parents.iter().map(|&one| one.to_owned()).collect()))
        .collect()
}

const DEFAULTS: [(&str, &[&str]); 3] =
    [("id/users:80", &["users.id:80"]), ("id/users:81", &["users.id:81"]), ("shop/app:http", &["in-http"])];

#[test]
fn the_name_of_a_port_says_what_it_speaks_with_and_without_a_route() {
    let ports = json!([{ "name": "grpc", "port": 80 }, { "name": "h2c-x", "port": 81, "appProtocol": "http" }]);
    let route = parents(&[users()]);
    for bed in [Bed::new(), Bed::new().route("id/own", &route)] {
        let (inputs, _) = bed.service("id/users", &ports).view(options());
        let made = Compiler::default().compile(&inputs);
        let of = |port: u16| {
            let backends = made.snapshot.backends.iter();
            let mut found = backends.filter(|one| *one.key.service.name == *"users" && one.key.port == port);
            found.next().map(|backend| backend.key.protocol)
        };
        assert_eq!(of(80), Some(Protocol::H2c));
        assert!(of(81).is_none_or(|protocol| protocol == Protocol::Http), "what a port says itself counts");
    }
}

#[test]
fn which_routes_act_on_calls() {
    let [default_80, default_81, default_app] = DEFAULTS;
    let bed = Bed::new();
    assert_eq!(bed.bound(), pairs(&DEFAULTS), "no route");
    let producer = bed.route("id/producer", &parents(&[users()]));
    let both: &[&str] = &["users.id:80", "users.id:81"];
    assert_eq!(producer.bound(), pairs(&[("id/producer", both), default_app]));
    let stranger = producer.route("other/route", &parents(&[users()]));
    assert_eq!(stranger.bound(), pairs(&[("id/producer", both), default_app]), "of a third namespace");
    let mut of_port = users();
    of_port["port"] = 81.into();
    let consumer = stranger.route("shop/consumer", &parents(&[of_port]));
    let expected = [("id/producer", &["users.id:80"][..]), default_app, ("shop/consumer", &["users.id:81"])];
    assert_eq!(consumer.bound(), pairs(&expected), "the consumer's route counts, for its port");
    let mut other_class = parents(&[users()]);
    other_class["gatewayClassName"] = "internal".into();
    let bed = Bed::new().route("id/classed", &other_class).route("shop/everywhere", &parents(&[]));
    assert_eq!(bed.bound(), pairs(&[default_80, default_81, default_app]), "routes for others");
}

#[test]
fn which_routes_act_on_requests_to_the_application() {
    let incoming = json!({ "group": GROUP, "kind": "Listener", "name": "in-http" });
    let other = json!({ "group": GROUP, "kind": "Listener", "name": "web" });
    let spec = parents(std::slice::from_ref(&incoming));
    let bed = Bed::new().route("shop/mine", &spec).route("id/theirs", &spec);
    let bed = bed.route("shop/web", &parents(&[other]));
    let [default_80, default_81, _] = DEFAULTS;
    assert_eq!(bed.bound(), pairs(&[default_80, default_81, ("shop/mine", &["in-http"])]));
    let bed = Bed::new().route("shop/sides", &parents(&[incoming, users()]));
    let both: &[&str] = &["users.id:80", "users.id:81"];
    assert_eq!(bed.bound(), pairs(&[("shop/sides", both), ("shop/sides:in", &["in-http"])]));
}

#[test]
fn the_own_service_is_the_application() {
    let spec = json!({
        "parentRefs": [{ "group": GROUP, "kind": "Listener", "name": "in-http" }],
        "hostnames": ["cart.test"],
        "rules": [{ "backendRefs": [{ "name": "cart", "port": 80 }, { "name": "users", "port": 80 }] }],
    });
    let bed = Bed::new().route("shop/mine", &spec);
    let (inputs, findings) = bed.view(options());
    assert!(findings.is_empty(), "{findings:?}");
    let route = &inputs.objects.routes.get(&named("shop/mine")).unwrap().object.spec;
    let backends: Vec<_> = route.rules[0].backend_refs.iter().map(|backend| (&*backend.name, backend.port)).collect();
    assert_eq!(backends, [("app:http", Some(8080)), ("users", Some(80))]);
    assert_eq!(route.hostnames, ["cart.test"]);
    let app = inputs.objects.slices.get(&named("shop/app:http")).expect("the application's endpoint");
    assert_eq!(app.object.endpoints.len(), 1);
}

/// Otherwise requests would go from pod to pod of the Service, each of which would send them on.
#[test]
fn the_own_service_is_the_application_behind_delegation_too() {
    let incoming = json!({ "group": GROUP, "kind": "Listener", "name": "in-http" });
    let below = |parent: &str, rule: Value| {
        let parent = json!({ "group": GROUP, "kind": "GatewayRoute", "name": parent, "sectionName": "on" });
        json!({ "parentRefs": [parent], "rules": [rule] })
    };
    let delegate = json!({ "name": "on", "delegate": {} });
    let own = json!({ "backendRefs": [{ "name": "cart", "port": 80 }] });
    for (parents, halves) in [(json!([incoming]), vec!["root"]), (json!([incoming, users()]), vec!["root", "root:in"])]
    {
        let bed = Bed::new()
            .route("shop/root", &json!({ "parentRefs": parents, "rules": [delegate] }))
            .route("shop/middle", &below("root", delegate.clone()))
            .route("shop/leaf", &below("middle", own.clone()));
        let (inputs, _) = bed.view(options());
        let of = |name: &str| &inputs.objects.routes.get(&named(name)).expect("it acts").object.spec;
        let backend = &of("shop/leaf").rules[0].backend_refs[0];
        assert_eq!((&*backend.name, backend.port), ("app:http", Some(8080)));
        let names: Vec<_> = of("shop/middle").parent_refs.iter().map(|parent| &*parent.name).collect();
        assert_eq!(names, halves);
        // The requests reach it.
        let output = Compiler::default().compile(&inputs);
        let uses = |rule: &Rule| {
            let of_app =
                |id| output.snapshot.backend(id).is_some_and(|backend| *backend.key.service.name == *"app:http");
            rule.backend_refs.iter().filter_map(|one| one.backend).any(of_app)
        };
        let listener = inputs.listeners.iter().position(|one| *one.name == *"in-http").expect("a listener");
        let headers = http::HeaderMap::new();
        let method = http::Method::GET;
        let view = RequestView { host: None, method: &method, path: "/", query: None, headers: &headers };
        let found = output.snapshot.find_route(ListenerId(listener as u32), &view).expect("a route");
        assert!(uses(output.snapshot.rule(found.rule).expect("its rule")), "{halves:?}");
    }
}

#[test]
fn hostnames_beside_a_service_are_ignored_and_that_is_told() {
    let mut spec = parents(&[users()]);
    spec["hostnames"] = json!(["users.test"]);
    let (inputs, findings) = Bed::new().route("id/producer", &spec).view(options());
    assert!(inputs.objects.routes.get(&named("id/producer")).unwrap().object.spec.hostnames.is_empty());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("GatewayRoute id/producer: HostnamesIgnored: "), "{findings:?}");
}

#[test]
fn what_is_not_there_is_told_and_compiles_to_a_service_without_endpoints() {
    let options = Options {
        out: vec!["users.id@127.0.0.2".parse().unwrap(), "gone.id@127.0.0.3".parse().unwrap()],
        out_ports: vec!["users.id:99@127.0.0.1:0".parse().unwrap(), "none.id:80@127.0.0.1:0".parse().unwrap()],
        ..options()
    };
    let ports = json!([
        { "name": "http", "port": 80 },
        { "name": "db", "port": 5432 },
        { "name": "dns", "port": 53, "protocol": "UDP" },
    ]);
    let bed = Bed::new().service("id/users", &ports);
    let (inputs, findings) = bed.view(options);
    let expected = [
        "Service id/users: UnsupportedProtocol: found port 53 of protocol UDP",
        "Service id/gone: BackendNotFound: found nothing",
        "Service id/users: BackendNotFound: found no such port",
        "Service id/none: BackendNotFound: found no such port",
    ];
    assert!(
        findings.len() == expected.len()
            && findings.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)),
        "{findings:#?}"
    );
    let names: Vec<_> = inputs.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["in-http", "none.id:80", "users.id:99@127.0.0.1:0", "users.id:5432", "users.id:80"]);
    let output = Compiler::default().compile(&inputs);
    assert!(output.diagnostics.iter().all(|one| one.severity < Severity::Error), "{:?}", output.diagnostics);
    assert_eq!(output.snapshot.backends.len(), 5, "each listener leads somewhere");
}

#[test]
fn more_endpoints_and_services_than_a_sidecar_is_made_for_are_told() {
    let slice = |name: &str, service: &str, endpoints: usize| {
        let addresses = (0..endpoints).map(|at| json!({ "addresses": [format!("10.1.{}.{}", at / 250, at % 250)] }));
        let slice: EndpointSlice = own(json!({
            "metadata": { "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 80 }],
            "endpoints": addresses.collect::<Vec<_>>(),
        }));
        (named(name), of_app(slice))
    };
    let mut bed = Bed::new();
    bed.inputs.objects.slices = [
        slice("id/users-a", "users", 2_500),
        slice("id/users-b", "users", 2_500),
        // Of Services that nobody calls, and of one with the same name elsewhere.
        slice("id/other", "other", 1_000),
        slice("shop/users", "users", 1_000),
    ]
    .into_iter()
    .collect();
    assert_eq!(bed.view(options()).1, [""; 0], "as many as it is made for");
    let spec = json!({
        "parentRefs": [users()],
        "rules": [{ "backendRefs": [{ "name": "users", "port": 80 }, { "name": "other", "port": 80 }] }],
    });
    let bed = bed.route("id/split", &spec);
    let (inputs, findings) = bed.view(options());
    let expected = "Service id/users: TooManyEndpoints: found 6000 endpoints of all Services together, 5000 of them of this \
                    one, expected at most 5000; all are served";
    assert!(findings.len() == 1 && findings[0].starts_with(expected), "{findings:#?}");
    assert_eq!(inputs.objects.slices.iter().count(), 5, "with that of the application");
    let mut bed = Bed::new();
    for part in 0..20 {
        let backends: Vec<_> = (0..10).map(|at| json!({ "name": format!("s{part}-{at}"), "port": 80 })).collect();
        let spec = json!({ "parentRefs": [users()], "rules": [{ "backendRefs": backends }] });
        bed = bed.route(&format!("id/r{part}"), &spec);
    }
    assert_eq!(bed.view(options()).1, [""; 0], "200 Services, and none beside them");
    let (_, findings) = bed.route("id/further", &parents(&[users()])).view(options());
    let expected =
        "TooManyServices: found 201 Services that flags and routes lead to, expected at most 200; all are served";
    assert!(findings.len() == 1 && findings[0].starts_with(expected), "{findings:#?}");
}

#[test]
fn routes_say_nothing_about_bytes() {
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "db", "port": 5432 }]);
    let bed = Bed::new().service("id/users", &ports).route("id/producer", &parents(&[users()]));
    let expected = [("id/producer", &["users.id:80"][..]), ("id/users:5432", &["users.id:5432"]), DEFAULTS[2]];
    assert_eq!(bed.bound(), pairs(&expected));
}

/// What a step asks for: the names of listeners to be opened and closed, and the numbers of those to be changed.
fn names(step: &Step) -> (Vec<&str>, Vec<&str>, Vec<u32>) {
    let open = step.open.iter().map(|(_, name, _)| &**name).collect();
    let close = step.close.iter().map(|(_, name)| &**name).collect();
    (open, close, step.change.iter().map(|(id, _)| id.0).collect())
}

#[test]
fn ports_come_and_go_with_the_service_and_keep_their_numbers() {
    let port = |name: &str, number: u16| json!({ "name": name, "port": number });
    let with = |ports: Value| Bed::new().service("id/users", &ports).inputs;
    let seconds = Duration::from_secs;
    let mut view = View::new(Plan::new(options(), LINGER));
    let both = with(json!([port("http", 80), port("http-admin", 81)]));
    assert_eq!(names(&view.step(&both.objects, seconds(0))), (vec!["users.id:80", "users.id:81"], vec![], vec![]));
    assert!(view.step(&both.objects, seconds(1)).is_empty());
    let number = |view: &mut View, inputs: &Inputs, name: &str| {
        view.apply(inputs).0.listeners.iter().position(|listener| *listener.name == *name)
    };
    assert_eq!(number(&mut view, &both, "users.id:81"), Some(2));

    let other = with(json!([port("http-admin", 81), port("http-new", 82)]));
    assert_eq!(names(&view.step(&other.objects, seconds(2))), (vec!["users.id:82"], vec!["users.id:80"], vec![]));
    assert_eq!(number(&mut view, &other, "users.id:80"), Some(1), "connections of it may still be there");
    assert_eq!(number(&mut view, &other, "users.id:81"), Some(2));
    assert_eq!(number(&mut view, &other, "users.id:82"), Some(3));
    view.step(&other.objects, seconds(2) + LINGER);
    assert_eq!(number(&mut view, &other, "users.id:80"), None);

    let newest = with(json!([port("http-admin", 81), port("http-new", 82), port("http-newest", 83)]));
    assert_eq!(names(&view.step(&newest.objects, seconds(60))), (vec!["users.id:83"], vec![], vec![]));
    assert_eq!(number(&mut view, &newest, "users.id:83"), Some(1), "the number that became free");
    let relayed = with(json!([port("http-admin", 81), port("http-new", 82), port("db", 83)]));
    assert_eq!(names(&view.step(&relayed.objects, seconds(61))), (vec![], vec![], vec![1]));

    let mut gone = relayed.clone();
    gone.objects.services.remove(&named("id/users"));
    assert!(view.step(&gone.objects, seconds(62)).is_empty(), "a Service that is gone may come back");
    let (_, findings) = view.apply(&gone);
    assert!(findings[0].to_string().ends_with("calls are answered 503"), "{findings:?}");
}

#[test]
fn what_cannot_be_bound_is_told_and_tried_again() {
    let bed = Bed::new();
    let mut view = View::new(Plan::new(options(), LINGER));
    view.step(&bed.inputs.objects, Duration::ZERO);
    assert!(view.apply(&bed.inputs).1.is_empty());
    view.refused(ListenerId(1), "address 127.0.0.2:80 is in use".to_owned());
    let (_, findings) = view.apply(&bed.inputs);
    let expected = "Service id/users: NotBound: found port 80, and address 127.0.0.2:80 is in use";
    assert!(findings.len() == 1 && findings[0].to_string().starts_with(expected), "{findings:?}");
    assert!(view.plan().is_unfinished());
    let step = view.step(&bed.inputs.objects, Duration::ZERO);
    assert_eq!(names(&step), (vec!["users.id:80"], vec![], vec![]));
    assert!(view.apply(&bed.inputs).1.is_empty() && !view.plan().is_unfinished());
}
