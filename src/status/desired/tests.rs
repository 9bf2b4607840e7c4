use std::sync::Arc;

use super::*;
use crate::compile::status::Hostnames;
use crate::model::ids::ObjectName;
use crate::source::stored::{Identity, StoredRoute};

const CONTROLLER: &str = "tidegate.dev/controller";

fn verdict(holds: bool, reason: ConditionReason, message: &str) -> Verdict {
    Verdict { holds, reason, message: message.to_owned() }
}

fn parent(name: &str) -> ParentStatus {
    let parent_ref = ParentRef {
        group: "tidegate.dev".to_owned(),
        kind: "Listener".to_owned(),
        namespace: None,
        name: name.to_owned(),
        section_name: None,
        port: None,
    };
    ParentStatus {
        key: format!("tidegate.dev/Listener//{name}//").into(),
        parent_ref: Arc::new(parent_ref),
        is_of_sidecars: false,
        accepted: verdict(true, ConditionReason::Accepted, ""),
        resolved_refs: verdict(true, ConditionReason::ResolvedRefs, ""),
        conflicted: verdict(false, ConditionReason::NoConflicts, ""),
        partially_invalid: None,
    }
}

fn route(parents: Vec<ParentStatus>) -> RouteStatus {
    let hostnames = Hostnames::Same([Hostname::Exact("a.test".into()), Hostname::Wildcard("b.test".into())].into());
    RouteStatus { name: ObjectName::new("ns", "route"), generation: Some(7), parents: parents.into(), hostnames }
}

/// No other controller says anything.
fn alone(is_for_all: bool) -> Beside<'static> {
    Beside { controller: CONTROLLER, is_for_all, others: &[] }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// What an API server has after this was applied to it.
fn applied(desired: &Desired<'_>, before: &StoredStatus, second: i64) -> StoredStatus {
    read(&desired.to_json(CONTROLLER, before, at(second)))
}

/// What is held of a status.
fn read(status: &Value) -> StoredStatus {
    let identity = Identity { controller_name: CONTROLLER.into(), gateway_class_name: "tidegate".into() };
    StoredRoute::read(&json!({ "status": status }), &identity).status
}

#[test]
fn what_was_applied_is_no_difference_any_more() {
    let status = route(vec![parent("http"), parent("internal")]);
    let desired = Desired::of(&status, alone(true));
    let none = StoredStatus::default();
    assert!(desired.differs(&none));
    let stored = applied(&desired, &none, 100);
    assert!(!desired.differs(&stored));
    assert_eq!(stored.observed_generation, Some(7));
    let entry = &desired.to_json(CONTROLLER, &none, at(100))["parents"][0];
    assert_eq!(entry["hostnames"], json!(["a.test", "*.b.test"]));
    let ready = stored.ready.expect("it is there");
    assert_eq!((ready.holds, ready.text), (Some(true), fingerprint(["Ready", ""])));
    let programmed = stored.parents[1].condition(ConditionType::Programmed).expect("it is there");
    assert_eq!((programmed.holds, programmed.text), (Some(true), fingerprint(["Programmed", ""])));
}

#[test]
fn every_part_of_a_status_is_compared() {
    let status = route(vec![parent("http")]);
    let desired = Desired::of(&status, alone(true));
    let whole = desired.to_json(CONTROLLER, &StoredStatus::default(), at(100));
    assert!(!desired.differs(&read(&whole)));
    let others = [
        ("/observedGeneration", json!(6)),
        ("/conditions", json!([])),
        ("/conditions/0/status", json!("Unknown")),
        ("/conditions/0/message", json!("x")),
        ("/parents", json!([])),
        ("/parents/0/hostnames", json!(["a.test"])),
        ("/parents/0/ref", json!("x")),
        ("/parents/0/conditions", whole["parents"][0]["conditions"].as_array().expect("a list")[1..].into()),
        ("/parents/0/conditions/0/type", json!("Strange")),
        ("/parents/0/conditions/0/status", json!("False")),
        ("/parents/0/conditions/0/reason", json!("Pending")),
        ("/parents/0/conditions/0/message", json!("x")),
        ("/parents/0/conditions/0/observedGeneration", json!(6)),
        ("/parents/0/conditions/0/lastTransitionTime", json!("soon")),
        ("/parents/0/conditions/0/lastTransitionTime", json!("1970-01-01T00:00:00Z")),
    ];
    for (at, other) in others {
        let mut status = whole.clone();
        *status.pointer_mut(at).expect("it is there") = other;
        assert!(desired.differs(&read(&status)), "{at}");
    }
    let mut status = whole.clone();
    status["parents"][0]["conditions"].as_array_mut().expect("a list").push(json!({ "type": "Strange" }));
    assert!(desired.differs(&read(&status)), "one condition too many");
}

#[test]
fn the_time_of_a_transition_moves_with_the_status_alone() {
    let mut status = route(vec![parent("http")]);
    let stored = applied(&Desired::of(&status, alone(true)), &StoredStatus::default(), 100);
    status.generation = Some(8);
    Arc::get_mut(&mut status.parents).expect("not shared")[0].resolved_refs =
        verdict(false, ConditionReason::BackendNotFound, "no Service");
    let stored = applied(&Desired::of(&status, alone(true)), &stored, 200);
    let since = |stored: &StoredStatus, kind| stored.parents[0].condition(kind).and_then(StoredCondition::since);
    assert_eq!(since(&stored, ConditionType::Accepted), Some(at(100)));
    let exact = Timestamp::from_millisecond(100_999).expect("in range");
    let object = Desired::of(&status, alone(true)).to_json(CONTROLLER, &StoredStatus::default(), exact);
    assert_eq!(object["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
    assert_eq!(since(&stored, ConditionType::ResolvedRefs), Some(at(200)));
    assert_eq!(stored.ready.as_ref().and_then(StoredCondition::since), Some(at(200)));
    // Another reason for the same status.
    Arc::get_mut(&mut status.parents).expect("not shared")[0].resolved_refs =
        verdict(false, ConditionReason::RefNotPermitted, "no grant");
    let stored = applied(&Desired::of(&status, alone(true)), &stored, 300);
    assert_eq!(since(&stored, ConditionType::ResolvedRefs), Some(at(200)));
    assert_eq!(stored.ready.and_then(|ready| ready.since()), Some(at(200)));
}

#[test]
fn a_route_is_ready_when_it_serves_as_written_everywhere() {
    let bad: &[(ConditionReason, fn(&mut ParentStatus))] = &[
        (ConditionReason::NoMatchingParent, |parent| {
            parent.accepted = verdict(false, ConditionReason::NoMatchingParent, "why");
        }),
        (ConditionReason::BackendNotFound, |parent| {
            parent.resolved_refs = verdict(false, ConditionReason::BackendNotFound, "why");
        }),
        (ConditionReason::UnsupportedValue, |parent| {
            parent.partially_invalid = Some(verdict(true, ConditionReason::UnsupportedValue, "why"));
        }),
        (ConditionReason::DuplicateMatch, |parent| {
            parent.conflicted = verdict(true, ConditionReason::DuplicateMatch, "why");
        }),
    ];
    for (reason, change) in bad {
        let (good, mut broken) = (parent("http"), parent("internal"));
        change(&mut broken);
        let status = route(vec![good, broken]);
        for is_for_all in [false, true] {
            let ready = Desired::of(&status, alone(is_for_all)).ready;
            assert_eq!((ready.holds, ready.reason, ready.message), (false, reason.as_str(), "why"));
        }
    }
}

/// Without parentRefs a route asks for every listener that admits it: some may not.
#[test]
fn a_listener_that_does_not_admit_a_route_counts_only_when_it_was_asked_for() {
    let refused =
        |name| ParentStatus { accepted: verdict(false, ConditionReason::NotAllowedByListeners, "why"), ..parent(name) };
    let some = route(vec![parent("http"), refused("internal")]);
    assert!(Desired::of(&some, alone(true)).ready.holds);
    assert!(!Desired::of(&some, alone(false)).ready.holds);
    let none = route(vec![refused("http"), refused("internal")]);
    assert!(!Desired::of(&none, alone(true)).ready.holds);
}

#[test]
fn people_are_told_once_what_is_new() {
    let status = route(vec![parent("http"), parent("internal")]);
    let none = StoredStatus::default();
    let good = Desired::of(&status, alone(true));
    let notices = good.notices(&none);
    assert_eq!(notices.len(), 1);
    assert_eq!((notices[0].is_warning, &*notices[0].message), (false, "Serves as written at 2 parents"));
    let stored = applied(&good, &none, 100);
    assert_eq!(good.notices(&stored), []);

    let mut broken = vec![parent("http"), parent("internal")];
    for parent in &mut broken {
        parent.resolved_refs = verdict(false, ConditionReason::BackendNotFound, "no Service");
    }
    let status = route(broken);
    let bad = Desired::of(&status, alone(true));
    let warning = Notice { is_warning: true, reason: "BackendNotFound".into(), message: "no Service".into() };
    assert_eq!(bad.notices(&stored), [warning], "once for both parents");
    // A new generation with the same fault is nothing new.
    let mut newer = status.clone();
    newer.generation = Some(8);
    let stored = applied(&bad, &stored, 200);
    assert_eq!(Desired::of(&newer, alone(true)).notices(&stored), []);
}

#[test]
fn what_cannot_be_read_is_said_at_every_parent() {
    let http = parent("http");
    let parents = [(&*http.key, &*http.parent_ref)];
    let desired = Desired::unreadable(Some(3), "found x", parents.into_iter(), alone(false));
    let stored = applied(&desired, &StoredStatus::default(), 100);
    assert!(!desired.differs(&stored));
    let accepted = stored.parents[0].condition(ConditionType::Accepted).expect("it is there");
    assert_eq!((accepted.holds, accepted.text), (Some(false), fingerprint(["UnsupportedValue", "found x"])));
    assert_eq!(stored.ready.expect("it is there").holds, Some(false));
}

#[test]
fn a_fingerprint_is_that_of_what_is_said() {
    let status = route(vec![parent("http")]);
    let other = RouteStatus { generation: Some(8), ..status.clone() };
    let fingerprint = |status: &RouteStatus| Desired::of(status, alone(true)).fingerprint();
    assert_eq!(fingerprint(&status), fingerprint(&status.clone()));
    assert_ne!(fingerprint(&status), fingerprint(&other));
}

/// Two controllers, each of which knows of the other what it has said: both say the same of Ready.
#[test]
fn ready_is_the_same_whoever_says_it() {
    let missing = verdict(false, ConditionReason::BackendNotFound, "no Service");
    let absent = verdict(false, ConditionReason::NoMatchingParent, "no listener");
    let refused = verdict(false, ConditionReason::NotAllowedByListeners, "not admitted");
    let unresolved = |name| ParentStatus { resolved_refs: missing.clone(), ..parent(name) };
    let unknown = |name| ParentStatus { accepted: absent.clone(), ..parent(name) };
    let not_admitted = |name| ParentStatus { accepted: refused.clone(), ..parent(name) };
    let cases = [
        (vec![parent("http")], vec![parent("http")], "Ready"),
        (vec![parent("http")], vec![unresolved("http")], "BackendNotFound"),
        (vec![unknown("http")], vec![unresolved("http")], "NoMatchingParent"),
        (vec![parent("x"), unresolved("b"), unknown("a")], vec![parent("x")], "NoMatchingParent"),
        (vec![parent("a"), not_admitted("b")], vec![parent("a")], "Ready"),
        (vec![parent("a")], vec![not_admitted("a"), not_admitted("b")], "NotAllowedByListeners"),
    ];
    for (one, two, reason) in cases {
        let (one, two) = (route(one), route(two));
        let said = |status: &RouteStatus, controller: &str| {
            let alone = Beside { controller, is_for_all: true, others: &[] };
            let object =
                json!({ "status": Desired::of(status, alone).to_json(controller, &StoredStatus::default(), at(1)) });
            let nobody = Identity { controller_name: "n".into(), gateway_class_name: "c".into() };
            StoredRoute::read(&object, &nobody).status.others
        };
        let (by_one, by_two) = (said(&one, "one"), said(&two, "two"));
        let first = Desired::of(&one, Beside { controller: "one", is_for_all: true, others: &by_two });
        let second = Desired::of(&two, Beside { controller: "two", is_for_all: true, others: &by_one });
        assert_eq!(first.ready, second.ready);
        assert_eq!((first.ready.reason, first.ready.holds), (reason, reason == "Ready"));
        // What is said of an older generation says nothing of this one.
        let newer = RouteStatus { generation: Some(8), ..one.clone() };
        let alone = Beside { controller: "one", is_for_all: true, others: &[] };
        let beside = Beside { others: &by_two, ..alone };
        assert_eq!(Desired::of(&newer, beside).ready, Desired::of(&newer, alone).ready);
    }
}
