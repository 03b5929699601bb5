//! Pods near and far from pods.

use super::*;

fn zoned(name: &str, zone: &str) -> Arc<Node> {
    node(name, labelled(json!({"zone": zone})))
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn terms(kind: &str, terms: Value) -> Value {
    json!({"spec": {"affinity": {kind: {
        "requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

fn app(name: &str) -> Value {
    labelled(json!({"app": name}))
}

/// Two nodes in zone one, one in zone two; `db` is on the first.
fn three() -> Snapshot {
    let mut snapshot = cluster([zoned("a", "1"), zoned("b", "1"), zoned("c", "2")]);
    snapshot.place(pod("db", app("db")), &"a".into());
    snapshot
}

const NEAR: &str = "podAffinity";
const FAR: &str = "podAntiAffinity";
const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_FAR: &str = "node(s) didn't match pod anti-affinity rules";
const THEIRS: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// The nodes that would take the pod, and the reasons of the others.
fn open(snapshot: &Snapshot, pod: &Pod) -> (String, Vec<String>) {
    let told = super::super::plan::explain(snapshot, pod, &Profile::default());
    let (mut open, mut why) = (String::new(), Vec::new());
    for (node, reasons) in told.expect("no rule stops it everywhere") {
        match reasons.first() {
            None => open.push_str(&node),
            Some(reason) => why.push(reason.to_string()),
        }
    }
    (open, why)
}

#[test]
fn pods_go_near_what_they_need_and_far_from_what_they_do_not() {
    let cases = [
        (terms(NEAR, json!([term("db", "kubernetes.io/hostname")])), "a"),
        (terms(NEAR, json!([term("db", "zone")])), "ab"),
        (terms(NEAR, json!([term("none", "zone")])), ""),
        (terms(NEAR, json!([term("db", "rack")])), ""),
        (terms(FAR, json!([term("db", "kubernetes.io/hostname")])), "bc"),
        (terms(FAR, json!([term("db", "zone")])), "c"),
        (terms(FAR, json!([term("db", "rack")])), "abc"),
        // Both terms must hold, for the same pods.
        (terms(NEAR, json!([term("db", "zone"), term("none", "zone")])), ""),
        // Another namespace's pods do not count, unless they are asked for.
        (
            with(terms(NEAR, json!([term("db", "zone")])), json!({"metadata": {"namespace": "x"}})),
            "",
        ),
    ];
    for (asks, expected) in cases {
        assert_eq!(open(&three(), &pod("p", asks.clone())).0, expected, "{asks}");
    }
}

#[test]
fn the_first_of_pods_that_want_to_be_together_goes_anywhere_with_the_label() {
    let snapshot = cluster([zoned("a", "1"), node("b", json!({}))]);
    let asks = with(app("web"), terms(NEAR, json!([term("web", "zone")])));
    let (free, why) = open(&snapshot, &pod("p", asks));
    assert_eq!((free.as_str(), why), ("a", vec![NOT_NEAR.to_owned()]));
}

#[test]
fn what_pods_on_nodes_refuse_is_kept() {
    let mut snapshot = three();
    let alone = with(app("alone"), terms(FAR, json!([term("web", "zone")])));
    snapshot.place(pod("alone", alone), &"b".into());
    let (free, why) = open(&snapshot, &pod("web", app("web")));
    assert_eq!((free.as_str(), why), ("c", vec![THEIRS.to_owned(); 2]));
    let told = told(&snapshot, &pod("web", terms(FAR, json!([term("db", "zone")]))));
    assert_eq!(told, "goes to c");
    let both = with(app("web"), terms(FAR, json!([term("db", "zone")])));
    assert_eq!(open(&snapshot, &pod("web", both)).1, [NOT_FAR, NOT_FAR]);
}

#[test]
fn namespaces_are_named_or_selected() {
    let mut snapshot = three();
    let labels = [("team".to_owned(), "data".to_owned())].into();
    snapshot.set_namespace("default", Some(labels));
    for (scope, expected) in [
        (json!({"namespaces": ["default"]}), "a"),
        (json!({"namespaces": ["other"]}), ""),
        (json!({"namespaceSelector": {"matchLabels": {"team": "data"}}}), "a"),
        (json!({"namespaceSelector": {"matchLabels": {"team": "web"}}}), ""),
        (json!({"namespaceSelector": {}}), "a"),
        (
            json!({"namespaceSelector": {"matchLabels": {"team": "web"}}, "namespaces": ["default"]}),
            "a",
        ),
    ] {
        let term = with(term("db", "kubernetes.io/hostname"), scope.clone());
        let asks = with(terms(NEAR, json!([term])), json!({"metadata": {"namespace": "x"}}));
        assert_eq!(open(&snapshot, &pod("p", asks)).0, expected, "{scope}");
    }
}

#[test]
fn keys_narrow_a_term_to_pods_of_the_same_kind() {
    let mut snapshot = three();
    let old = labelled(json!({"app": "web", "hash": "1"}));
    snapshot.place(pod("old", old), &"b".into());
    let new = labelled(json!({"app": "web", "hash": "2"}));
    for (keys, expected) in [
        (json!({}), "ac"),
        (json!({"matchLabelKeys": ["hash"]}), "abc"),
        (json!({"mismatchLabelKeys": ["hash"]}), "ac"),
        (json!({"matchLabelKeys": ["missing"]}), "ac"),
    ] {
        let term = with(term("web", "kubernetes.io/hostname"), keys.clone());
        let asks = with(new.clone(), terms(FAR, json!([term])));
        assert_eq!(open(&snapshot, &pod("p", asks)).0, expected, "{keys}");
    }
}

#[test]
fn preferences_weigh_for_and_against() {
    let prefers = |kind: &str, app: &str, weight: i64| {
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "podAffinityTerm": term(app, "zone")}]}}}})
    };
    let snapshot = cluster([zoned("a", "1"), zoned("b", "2"), zoned("c", "3")]);
    let mut with_db = snapshot;
    with_db.place(pod("db", app("db")), &"b".into());
    assert_eq!(told(&with_db, &pod("p", prefers(NEAR, "db", 50))), "goes to b");
    let two = with(prefers(FAR, "db", 50), prefers(NEAR, "cache", 20));
    with_db.place(pod("cache", app("cache")), &"c".into());
    assert_eq!(told(&with_db, &pod("p", two)), "goes to c");
    // A pod that is there and wants this one near counts as well.
    let mut wanted = cluster([zoned("a", "1"), zoned("b", "2")]);
    let wants_web = with(app("db"), prefers(NEAR, "web", 100));
    wanted.place(pod("db", wants_web), &"b".into());
    assert_eq!(told(&wanted, &pod("web", app("web"))), "goes to b");
}
