use k8s_openapi::api::discovery::v1::EndpointConditions;
use serde_json::{Value, json};

use super::*;
use crate::compile::inputs::Inputs;
use crate::kinds::endpoint_slice::SERVICE_NAME;

/// Objects of one Service `ns/web`, and its port `http` (80).
struct Case {
    inputs: Inputs,
    service: Service,
}

impl Case {
    fn new(service: Value) -> Self {
        let mut spec =
            json!({ "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
        for (key, value) in service.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        Self { inputs: Inputs::default(), service: serde_json::from_value(json!({ "spec": spec })).expect("a Service") }
    }

    fn slice(mut self, name: &str, family: &str, ports: Value, endpoints: Value) -> Self {
        let slice = json!({ "metadata": { "namespace": "ns", "name": name, "labels": { SERVICE_NAME: "web" } },
            "addressType": family, "ports": ports, "endpoints": endpoints });
        let object = Arc::new(serde_json::from_value(slice).expect("a slice"));
        self.inputs.objects.slices.insert(ObjectName::new("ns", name), Sourced { object, origin: None });
        self
    }

    /// A slice of IPv4 endpoints at port 8080.
    fn v4(self, name: &str, endpoints: Value) -> Self {
        self.slice(name, "IPv4", json!([{ "name": "http", "port": 8080 }]), endpoints)
    }

    fn legacy(mut self, subsets: Value) -> Self {
        let endpoints = json!({ "metadata": { "namespace": "ns", "name": "web" }, "subsets": subsets });
        let object = Arc::new(serde_json::from_value(endpoints).expect("Endpoints"));
        self.inputs.objects.endpoints.insert(ObjectName::new("ns", "web"), Sourced { object, origin: None });
        self
    }

    fn all_of(&self, port: usize) -> (OfBackend, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let mut index = EndpointIndex::new(&self.inputs, |_, _| true);
        (
            index.endpoints(&ObjectName::new("ns", "web"), &self.service, &self.service.ports[port], &mut diagnostics),
            diagnostics,
        )
    }

    fn endpoints_of(&self, port: usize) -> (Arc<[Endpoint]>, Vec<Diagnostic>) {
        let (endpoints, diagnostics) = self.all_of(port);
        (endpoints.used, diagnostics)
    }

    /// The addresses with the uid and the address in the other family, where they have them.
    fn addresses_of(&self, port: usize) -> Vec<String> {
        let (endpoints, _) = self.endpoints_of(port);
        let text = |endpoint: &Endpoint| {
            let uid = endpoint.key.uid.as_ref().map(|uid| format!(" {uid}")).unwrap_or_default();
            let fallback = endpoint.fallback.as_ref().map(|addr| format!(" or {addr}")).unwrap_or_default();
            format!("{}{uid}{fallback}", endpoint.key.addr)
        };
        endpoints.iter().map(text).collect()
    }

    fn has(self, name: &str, expected: &[&str]) {
        assert_eq!(self.addresses_of(0), expected, "{name}");
    }
}

/// An endpoint of a pod with conditions; `null` leaves one out.
fn pod(address: &str, uid: &str, ready: Value, serving: Value, terminating: Value) -> Value {
    let mut conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
    conditions.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    json!({ "addresses": [address], "conditions": conditions,
        "targetRef": { "kind": "Pod", "name": format!("pod-{uid}"), "uid": uid } })
}

fn ready(address: &str, uid: &str) -> Value {
    pod(address, uid, json!(true), json!(true), json!(false))
}

fn going(address: &str, uid: &str) -> Value {
    pod(address, uid, json!(false), json!(true), json!(true))
}

#[test]
fn conditions_that_are_not_stated_mean_ready() {
    Case::new(json!({}))
        .v4("a", json!([{ "addresses": ["10.0.0.1"] }, pod("10.0.0.2", "b", json!(null), json!(null), json!(null))]))
        .has("nil conditions", &["10.0.0.1:8080", "10.0.0.2:8080 b"]);
    let class = |ready, serving, terminating| Class::of(Some(&EndpointConditions { ready, serving, terminating }));
    let (yes, no) = (Some(true), Some(false));
    let table = [
        ((None, None, None), Class::Ready),
        ((yes, no, no), Class::Ready),
        ((yes, None, None), Class::Ready),
        ((no, yes, yes), Class::Serving),
        ((no, None, yes), Class::Serving),
        ((yes, yes, yes), Class::Serving),
        ((no, no, yes), Class::Unusable),
        ((yes, no, yes), Class::Unusable),
        ((no, None, None), Class::Unusable),
        ((no, yes, no), Class::Unusable),
    ];
    for ((ready, serving, terminating), expected) in table {
        assert_eq!(class(ready, serving, terminating), expected, "{ready:?} {serving:?} {terminating:?}");
    }
    assert_eq!(Class::of(None), Class::Ready);
}

#[test]
fn the_order_of_slices_does_not_count() {
    let build = |order: Vec<usize>| {
        order.into_iter().enumerate().fold(Case::new(json!({})), |case, (position, slice)| {
            let pods: Vec<_> =
                (0..100).map(|pod| ready(&format!("10.0.{slice}.{pod}"), &format!("{slice}-{pod}"))).collect();
            case.v4(&format!("web-{position:02}"), json!(pods))
        })
    };
    let forward = build((0..15).collect()).addresses_of(0);
    assert_eq!(forward.len(), 1500);
    assert_eq!(forward, build((0..15).rev().collect()).addresses_of(0));
    assert_eq!(forward, build((0..15).map(|n| n * 7 % 15).collect()).addresses_of(0));
}

#[test]
fn a_pod_between_two_slices_is_there_once_in_its_better_class() {
    let old = || going("10.0.0.1", "a");
    let new = || ready("10.0.0.1", "a");
    Case::new(json!({})).v4("x", json!([new()])).v4("y", json!([new()])).has("both ready", &["10.0.0.1:8080 a"]);
    // With 10.0.0.2 ready, class B would not be used: the pod is there because class A won.
    let other = || ready("10.0.0.2", "b");
    let both = &["10.0.0.1:8080 a", "10.0.0.2:8080 b"];
    Case::new(json!({})).v4("x", json!([old(), other()])).v4("y", json!([new()])).has("old first", both);
    Case::new(json!({})).v4("x", json!([new(), other()])).v4("y", json!([old()])).has("new first", both);
}

#[test]
fn a_reused_address_with_a_new_uid_is_another_endpoint() {
    let case = Case::new(json!({})).v4("a", json!([ready("10.0.0.1", "old")]));
    let before = case.endpoints_of(0).0[0].key.clone();
    let after = case.v4("a", json!([ready("10.0.0.1", "new")]));
    assert_ne!(after.endpoints_of(0).0[0].key, before);
    after.v4("b", json!([going("10.0.0.1", "old")])).has("the new one is ready", &["10.0.0.1:8080 new"]);
}

#[test]
fn two_ports_may_lead_to_one_target() {
    let ports =
        json!([{ "name": "http", "port": 80 }, { "name": "web", "port": 8000 }, { "name": "other", "port": 9 }]);
    let case = Case::new(json!({ "ports": ports })).slice(
        "a",
        "IPv4",
        json!([{ "name": "http", "port": 8080 }, { "name": "web", "port": 8080 }]),
        json!([ready("10.0.0.1", "a")]),
    );
    assert_eq!(case.addresses_of(0), ["10.0.0.1:8080 a"]);
    assert_eq!(case.addresses_of(1), ["10.0.0.1:8080 a"]);
    assert_eq!(case.addresses_of(2), [""; 0], "a port that no slice has");
}

#[test]
fn a_named_target_port_has_a_number_for_each_slice() {
    Case::new(json!({ "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] }))
        .slice("a", "IPv4", json!([{ "name": "http", "port": 8080 }]), json!([ready("10.0.0.1", "a")]))
        .slice("b", "IPv4", json!([{ "name": "http", "port": 9090 }]), json!([ready("10.0.0.2", "b")]))
        .has("different numbers", &["10.0.0.1:8080 a", "10.0.0.2:9090 b"]);
    Case::new(json!({ "ports": [{ "port": 80, "targetPort": 8080 }] }))
        .slice("a", "IPv4", json!([{ "port": null }]), json!([ready("10.0.0.1", "a")]))
        .has("a null port is the target port", &["10.0.0.1:8080 a"]);
    Case::new(json!({ "ports": [{ "port": 80 }] }))
        .slice("a", "IPv4", json!([{ "name": "" }]), json!([ready("10.0.0.1", "a")]))
        .has("or the port itself", &["10.0.0.1:80 a"]);
    Case::new(json!({})).slice("a", "IPv4", json!([]), json!([ready("10.0.0.1", "a")])).has("no ports", &[]);
}

#[test]
fn a_pod_counts_once_in_its_preferred_family() {
    let build = |families: Value| {
        Case::new(json!({ "ipFamilies": families }))
            .v4("v4", json!([ready("10.0.0.1", "a"), ready("10.0.0.2", "b")]))
            .slice(
                "v6",
                "IPv6",
                json!([{ "name": "http", "port": 8080 }]),
                json!([ready("fd00::1", "a"), ready("fd00::3", "c")]),
            )
    };
    let first = ["10.0.0.1:8080 a or [fd00::1]:8080", "10.0.0.2:8080 b", "[fd00::3]:8080 c"];
    build(json!(["IPv4", "IPv6"])).has("IPv4 first", &first);
    build(json!([])).has("IPv4 unless stated", &first);
    let switched = ["10.0.0.2:8080 b", "[fd00::1]:8080 a or 10.0.0.1:8080", "[fd00::3]:8080 c"];
    build(json!(["IPv6", "IPv4"])).has("after a family switch", &switched);
    // Without a uid the pod's name joins the families; without a target each address stands for itself.
    let named = |address: &str| json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": "x" } });
    Case::new(json!({}))
        .v4("v4", json!([named("10.0.0.1"), { "addresses": ["10.0.0.9"] }]))
        .slice(
            "v6",
            "IPv6",
            json!([{ "name": "http", "port": 8080 }]),
            json!([named("fd00::1"), { "addresses": ["fd00::9"] }]),
        )
        .has("by name", &["10.0.0.1:8080 or [fd00::1]:8080", "10.0.0.9:8080", "[fd00::9]:8080"]);
}

#[test]
fn terminating_pods_serve_when_nothing_is_ready() {
    let gone = pod("10.0.0.3", "c", json!(false), json!(false), json!(true));
    let unready = pod("10.0.0.4", "d", json!(false), json!(true), json!(false));
    let all = json!([going("10.0.0.1", "a"), going("10.0.0.2", "b"), gone, unready]);
    Case::new(json!({})).v4("x", all.clone()).has("all terminating", &["10.0.0.1:8080 a", "10.0.0.2:8080 b"]);
    Case::new(json!({}))
        .v4("x", all)
        .v4("y", json!([ready("10.0.0.5", "e")]))
        .has("one is ready", &["10.0.0.5:8080 e"]);
    Case::new(json!({})).v4("x", json!([gone, unready])).has("none serves", &[]);
}

#[test]
fn what_is_published_before_it_is_ready_is_class_a() {
    // The controller says ready for all of a Service with publishNotReadyAddresses; serving and terminating stay true to
    // the pod.
    let starting = pod("10.0.0.1", "a", json!(true), json!(false), json!(false));
    let ending = pod("10.0.0.2", "b", json!(true), json!(true), json!(true));
    Case::new(json!({ "publishNotReadyAddresses": true }))
        .v4("x", json!([starting, ending]))
        .has("starting is A, ending is B", &["10.0.0.1:8080 a"]);
    let subsets = json!([{ "addresses": [{ "ip": "10.0.0.1" }], "notReadyAddresses": [{ "ip": "10.0.0.2" }],
        "ports": [{ "name": "http", "port": 8080 }] }]);
    Case::new(json!({ "selector": null })).legacy(subsets.clone()).has("Endpoints", &["10.0.0.1:8080"]);
    Case::new(json!({ "selector": null, "publishNotReadyAddresses": true }))
        .legacy(subsets)
        .has("Endpoints, published", &["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn hints_take_nobody_away() {
    let mut hinted = ready("10.0.0.1", "a");
    hinted["hints"] = json!({ "forZones": [{ "name": "z1" }] });
    Case::new(json!({ "trafficDistribution": "PreferSameZone" }))
        .v4("x", json!([hinted, ready("10.0.0.2", "b")]))
        .has("partly missing", &["10.0.0.1:8080 a", "10.0.0.2:8080 b"]);
}

#[test]
fn endpoints_of_the_older_form_serve_a_service_without_selector_and_slices() {
    let subsets = || {
        json!([{ "addresses": [{ "ip": "10.0.0.7" }], "ports": [{ "name": "http", "port": 8080 }] },
        { "addresses": [{ "ip": "10.0.0.8" }], "ports": [{ "name": "other", "port": 1 }, { "name": "http", "port": 8081 }] }])
    };
    let both = &["10.0.0.7:8080", "10.0.0.8:8081"];
    Case::new(json!({ "selector": null })).legacy(subsets()).has("no selector", both);
    Case::new(json!({ "selector": {} })).legacy(subsets()).has("an empty selector", both);
    Case::new(json!({})).legacy(subsets()).has("with a selector", &[]);
    // A slice that mirrors them, or any other, takes their place.
    let mirrored = json!([{ "addresses": ["10.0.0.7"] }]);
    Case::new(json!({ "selector": null })).legacy(subsets()).v4("m", mirrored).has("mirrored", &["10.0.0.7:8080"]);
    Case::new(json!({ "selector": null })).legacy(subsets()).v4("m", json!([])).has("an empty slice", &[]);
}

#[test]
fn headless_services_are_ordinary() {
    Case::new(json!({ "clusterIP": "None" }))
        .v4("a", json!([ready("10.0.0.1", "a")]))
        .has("headless", &["10.0.0.1:8080 a"]);
}

#[test]
fn slices_of_other_services_and_namespaces_are_not_ours() {
    let mut case = Case::new(json!({})).v4("a", json!([ready("10.0.0.1", "a")]));
    let (name, slice) = case.inputs.objects.slices.iter().next().expect("a slice");
    let (name, slice) = (name.clone(), slice.clone());
    case.inputs.objects.slices.remove(&name);
    let mut other = (*slice.object).clone();
    other.service = Some("other".into());
    case.inputs.objects.slices.insert(name.clone(), Sourced { object: Arc::new(other), origin: None });
    case.inputs.objects.slices.insert(ObjectName::new("elsewhere", name.name), slice);
    assert_eq!(case.addresses_of(0), [""; 0]);
}

#[test]
fn addresses_that_lead_elsewhere_are_left_out() {
    let addresses = |list: &[&str]| {
        let endpoints: Vec<_> = list.iter().map(|address| json!({ "addresses": [address, "10.9.9.9"] })).collect();
        json!(endpoints)
    };
    let never = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "nonsense"];
    let local = ["127.0.0.1", "169.254.169.254"];
    for (allowed, usable) in
        [(false, vec!["10.0.0.1:8080"]), (true, vec!["10.0.0.1:8080", "127.0.0.1:8080", "169.254.169.254:8080"])]
    {
        let all: Vec<&str> = ["10.0.0.1"].into_iter().chain(never).chain(local).collect();
        let mut case = Case::new(json!({})).v4("a", addresses(&all));
        case.inputs.allow_loopback_endpoints = allowed;
        let (endpoints, diagnostics) = case.endpoints_of(0);
        assert_eq!(endpoints.iter().map(|endpoint| endpoint.key.addr.to_string()).collect::<Vec<_>>(), usable);
        assert_eq!(diagnostics.len(), all.len() - usable.len());
        assert_eq!(diagnostics[0].path, "endpoints[1].addresses[0]");
        assert!(diagnostics.iter().all(|one| one.severity == Severity::Warning));
    }
    let mut case = Case::new(json!({})).v4("a", addresses(&local));
    case.inputs.own_services = Arc::new([ObjectName::new("ns", "web")].into());
    assert_eq!(case.endpoints_of(0).0.len(), local.len(), "of the process's own making");
    // A mapped address is the IPv4 address that it maps.
    for (address, usable) in [
        ("::ffff:127.0.0.1", false),
        ("::ffff:169.254.169.254", false),
        ("::ffff:10.0.0.1", true),
        ("::1", false),
        ("fe80::1", false),
        ("::", false),
        ("ff02::1", false),
        ("fd00::1", true),
    ] {
        let case =
            Case::new(json!({})).slice("a", "IPv6", json!([{ "name": "http", "port": 1 }]), addresses(&[address]));
        assert_eq!(case.endpoints_of(0).0.len(), usize::from(usable), "{address}");
    }
    let named =
        Case::new(json!({})).slice("a", "FQDN", json!([{ "name": "http", "port": 1 }]), addresses(&["a.example.com"]));
    let (endpoints, diagnostics) = named.endpoints_of(0);
    assert!(endpoints.is_empty());
    assert_eq!((diagnostics[0].path.as_str(), diagnostics[0].found.as_str()), ("addressType", "FQDN"));
}

#[test]
fn what_terminates_beside_ready_endpoints_is_kept_for_its_sessions() {
    let draining = |slices: Value| {
        let (endpoints, _) = Case::new(json!({})).v4("a", slices).all_of(0);
        let text = |list: &[Endpoint]| list.iter().map(|endpoint| endpoint.key.addr.to_string()).collect::<Vec<_>>();
        (text(&endpoints.used), text(&endpoints.draining))
    };
    let (one, two) = (|| ready("10.0.0.1", "a"), || going("10.0.0.2", "b"));
    let (first, second) = (vec!["10.0.0.1:8080".to_owned()], vec!["10.0.0.2:8080".to_owned()]);
    assert_eq!(draining(json!([one(), two()])), (first.clone(), second.clone()));
    assert_eq!(draining(json!([one()])), (first, vec![]));
    // Without a ready one it is used for all requests.
    assert_eq!(draining(json!([two()])), (second, vec![]));
    assert_eq!(draining(json!([])), (vec![], vec![]));
}

/// Slices as the EndpointSlice controller of Kubernetes 1.35 writes them, cut to what is read.
#[test]
fn near_endpoints_are_known_by_hints_zone_and_node() {
    let pod = |number: u8, zone: &str, node: &str, hints: Value| {
        json!({ "addresses": [format!("10.0.0.{number}")], "conditions": { "ready": true, "serving": true,
            "terminating": false }, "nodeName": node, "zone": zone, "hints": hints,
            "targetRef": { "kind": "Pod", "namespace": "ns", "name": format!("web-{number}"), "uid": format!("u{number}") } })
    };
    let zones =
        |names: &[&str]| json!({ "forZones": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() });
    let both = |zone: &str, node: &str| json!({ "forZones": [{ "name": zone }], "forNodes": [{ "name": node }] });
    let none = Value::Null;
    let own =
        |zone: Option<&str>, node: Option<&str>| OwnPlace { zone: zone.map(Into::into), node: node.map(Into::into) };
    let here = || own(Some("a"), Some("n1"));
    // One letter a way: n and z by hints, Z in the zone, N on the node.
    for (case, place, endpoints, expected) in [
        (
            "hints by zone",
            here(),
            [pod(1, "a", "n1", zones(&["a"])), pod(2, "a", "n2", zones(&["b"])), pod(3, "b", "n3", zones(&["b"]))],
            ["zZN", "Z", ""],
        ),
        (
            "hints by node, too",
            here(),
            [
                pod(1, "a", "n1", both("a", "n1")),
                pod(2, "a", "n2", both("a", "n2")),
                pod(3, "b", "n3", both("b", "n3")),
            ],
            ["nzZN", "zZ", ""],
        ),
        (
            "one for several zones",
            here(),
            [pod(1, "a", "n1", zones(&["a"])), pod(2, "b", "n2", zones(&["b"])), pod(3, "c", "n3", zones(&["c", "a"]))],
            ["zZN", "", "z"],
        ),
        (
            "one without hints: none counts",
            here(),
            [pod(1, "a", "n1", zones(&["a"])), pod(2, "a", "n2", zones(&["a"])), pod(3, "b", "n3", none.clone())],
            ["ZN", "Z", ""],
        ),
        (
            "no hints",
            here(),
            [pod(1, "a", "n1", none.clone()), pod(2, "b", "n1", none.clone()), pod(3, "", "", none.clone())],
            ["ZN", "N", ""],
        ),
        (
            "own zone unknown",
            own(None, Some("n1")),
            [pod(1, "a", "n1", zones(&["a"])), pod(2, "", "n2", zones(&["a"])), pod(3, "a", "n3", zones(&["a"]))],
            ["N", "", ""],
        ),
        (
            "nothing known",
            own(None, None),
            [
                pod(1, "a", "n1", both("a", "n1")),
                pod(2, "a", "n1", both("a", "n1")),
                pod(3, "a", "n1", both("a", "n1")),
            ],
            ["", "", ""],
        ),
    ] {
        // Hints are judged over all slices of the Service.
        let [one, two, three] = endpoints;
        let mut case_of = Case::new(json!({})).v4("a", json!([one, two])).v4("b", json!([three]));
        case_of.inputs.place = place;
        let (endpoints, _) = case_of.endpoints_of(0);
        let letters = |near: Near| -> String {
            [("n", Near::HINTED_NODE), ("z", Near::HINTED_ZONE), ("Z", Near::ZONE), ("N", Near::NODE)]
                .into_iter()
                .filter_map(|(letter, way)| near.has(way).then_some(letter))
                .collect()
        };
        let found: Vec<String> = endpoints.iter().map(|endpoint| letters(endpoint.near)).collect();
        assert_eq!(found, expected, "{case}");
    }
}
