//! Field sets and apply, by examples and by their laws.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::patch::Apply;
use crate::api::schema::{self, Expected, FieldValidation, Schema};

const DEPLOYMENT: Expected<'static> = Expected {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    schema: "io.k8s.api.apps.v1.Deployment",
    custom: None,
};

fn node() -> Node<'static> {
    Node::of_type(Schema::builtin(), DEPLOYMENT.schema)
}

fn writer(manager: &str, operation: Operation) -> Writer<'_> {
    let now = "2026-01-01T00:00:00Z";
    Writer { manager, operation, api_version: "apps/v1", subresource: "", now }
}

fn deployment(spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec,
    })
}

/// An object and who manages it.
#[derive(Debug, Clone, PartialEq)]
struct State {
    live: Value,
    managers: Managers,
}

impl State {
    fn new() -> Self {
        Self { live: json!({"metadata": {}}), managers: Managers::default() }
    }

    fn apply(&self, manager: &str, config: &Value, force: bool) -> Result<Self, String> {
        let normalize = |merged| {
            schema::normalize(DEPLOYMENT, merged, FieldValidation::Ignore).map(|done| done.0)
        };
        let apply = Apply {
            at: node(),
            config,
            writer: writer(manager, Operation::Apply),
            force,
            about: &|_| true,
            normalize: &normalize,
        };
        let applied = apply.to(&self.live, self.managers.clone());
        let (mut live, managers) = applied.map_err(|error| error.message)?;
        live["metadata"]["uid"] = "u".into();
        Ok(Self { live, managers })
    }

    fn update(&self, manager: &str, live: Value) -> Self {
        let mut managers = self.managers.clone();
        let compared = compare(node(), &self.live, &live);
        managers.update(compared, &writer(manager, Operation::Update));
        Self { live, managers }
    }

    fn fields(&self, manager: &str) -> Vec<String> {
        let mut entries = self.managers.0.iter().filter(|e| e.manager == manager);
        entries.next().map(|e| e.fields.paths()).unwrap_or_default()
    }
}

#[test]
fn a_new_object_is_managed_as_kubernetes_writes_it() {
    let object = deployment(json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{
                "name": "a", "image": "i", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            }]},
        },
    }));
    let set = created(node(), &object).into_value();
    assert_eq!(
        set,
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }}},
                },
            },
        })
    );
}

#[test]
fn conflicts_name_the_manager_and_the_field() {
    let state = State::new().apply("one", &deployment(json!({"replicas": 1})), false);
    let state = state.expect("nobody else is there");
    let told = state.apply("two", &deployment(json!({"replicas": 2})), false);
    let one = "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas";
    assert_eq!(told, Err(one.to_owned()));
    let state = state.apply("two", &deployment(json!({"replicas": 2})), true).expect("by force");
    assert_eq!(state.live["spec"]["replicas"], 2);
    assert_eq!(state.fields("one"), [".metadata.labels.app"]);
    let state = state.update("three", {
        let mut live = state.live.clone();
        live["spec"]["replicas"] = 3.into();
        live["spec"]["paused"] = true.into();
        live
    });
    let config = deployment(json!({"replicas": 4, "paused": false}));
    let told = state.apply("two", &config, false);
    let both = "Apply failed with 2 conflicts: conflicts with \"three\" using apps/v1 at \
                2026-01-01T00:00:00Z:\n- .spec.paused\n- .spec.replicas";
    assert_eq!(told, Err(both.to_owned()));
}

#[test]
fn what_the_schema_does_not_know_is_refused() {
    let told = State::new().apply("one", &deployment(json!({"foo": 1})), false);
    let why = "failed to create typed patch object (/web; apps/v1, Kind=Deployment): \
               .spec.foo: field not declared in schema";
    assert_eq!(told, Err(why.to_owned()));
}

#[test]
fn a_list_keeps_the_order_of_who_applies_and_what_others_added() {
    let containers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        deployment(json!({"template": {"spec": {"containers": list}}}))
    };
    let names = |state: &State| -> Vec<String> {
        let list = state.live["spec"]["template"]["spec"]["containers"].as_array().cloned();
        let name = |c: &Value| c["name"].as_str().unwrap_or_default().to_owned();
        list.unwrap_or_default().iter().map(name).collect()
    };
    let state = State::new().apply("one", &containers(&["a", "b", "c"]), false).expect("new");
    let state = state.apply("two", &containers(&["side"]), false).expect("another element");
    assert_eq!(names(&state), ["a", "b", "c", "side"]);
    let state = state.apply("one", &containers(&["c", "a"]), false).expect("one less");
    assert_eq!(names(&state), ["c", "a", "side"]);
}

#[test]
fn kubectl_goes_on_from_its_own_client_side_apply() {
    let mut live = deployment(json!({"replicas": 1}));
    live["metadata"]["uid"] = "u".into();
    let last = deployment(json!({"replicas": 1}));
    live["metadata"]["annotations"] = json!({crate::api::patch::LAST_APPLIED: last.to_string()});
    let mut managers = Managers::default();
    managers
        .create(created(node(), &live), &writer("kubectl-client-side-apply", Operation::Update));
    let state = State { live, managers };
    let config = deployment(json!({"replicas": 2}));
    assert!(state.apply("other", &config, false).is_err());
    let state = state.apply("kubectl", &config, false).expect("its own");
    assert_eq!(state.live["spec"]["replicas"], 2);
}

#[test]
fn the_oldest_updaters_are_merged() {
    let mut state = State::new();
    for n in 0..15 {
        let mut live = state.live.clone();
        live["metadata"]["labels"][format!("l{n}")] = "x".into();
        state = state.update(&format!("m{n:02}"), live);
    }
    assert_eq!(state.managers.0.len(), 10);
    let ancient: Vec<_> =
        state.managers.0.iter().filter(|e| e.manager == "ancient-changes").collect();
    assert_eq!(ancient.len(), 1);
    assert!(ancient[0].fields.paths().len() >= 6);
}

/// A configuration with some of a few fields, elements and labels.
fn config(names: &'static str) -> impl Strategy<Value = Value> {
    let label = prop::sample::subsequence(names.chars().collect::<Vec<_>>(), 0..=names.len());
    let envs = prop::sample::subsequence(names.chars().collect::<Vec<_>>(), 0..=names.len());
    let finalizers = prop::sample::subsequence(names.chars().collect::<Vec<_>>(), 0..=names.len());
    (label, envs, finalizers, "[x-z]").prop_map(|(labels, envs, finalizers, value)| {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web"}, "spec": {}});
        for label in labels {
            object["metadata"]["labels"][label.to_string()] = value.clone().into();
        }
        if !finalizers.is_empty() {
            let list: Vec<String> = finalizers.iter().map(|f| format!("e.x/{f}")).collect();
            object["metadata"]["finalizers"] = json!(list);
        }
        if !envs.is_empty() {
            let list: Vec<Value> =
                envs.iter().map(|e| json!({"name": e.to_string(), "value": value})).collect();
            object["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "env": list}]);
        }
        object
    })
}

/// An object without regard to the order of its lists.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(sorted).collect();
            list.sort_by_key(ToString::to_string);
            Value::Array(list)
        }
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect(),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(first in config("abc"), second in config("bcd")) {
        let state = State::new().apply("one", &first, false).expect("nobody else is there");
        let state = state.apply("one", &second, false).expect("nobody else is there");
        let again = state.apply("one", &second, false).expect("nobody else is there");
        prop_assert_eq!(again, state);
    }

    #[test]
    fn disjoint_sets_of_two_managers_commute(a in config("abc"), b in config("xyz")) {
        let one = State::new().apply("one", &a, false).expect("first");
        let ab = one.apply("two", &b, false).expect("disjoint");
        let two = State::new().apply("two", &b, false).expect("first");
        let ba = two.apply("one", &a, false).expect("disjoint");
        prop_assert_eq!(sorted(&ab.live), sorted(&ba.live));
        prop_assert_eq!(ab.managers.into_value(), ba.managers.into_value());
    }

    #[test]
    fn what_a_manager_stops_applying_is_gone_unless_another_has_it(
        before in config("abc"), after in config("abc"), other in config("abc"),
    ) {
        let state = State::new().apply("one", &before, true).expect("first");
        let state = state.apply("two", &other, true).expect("by force");
        let state = state.apply("one", &after, true).expect("by force");
        let fresh = State::new().apply("two", &other, true).expect("first");
        let fresh = fresh.apply("one", &after, true).expect("by force");
        prop_assert_eq!(sorted(&state.live), sorted(&fresh.live));
        prop_assert_eq!(state.fields("one"), fresh.fields("one"));
    }

    #[test]
    fn sets_are_an_algebra(a in config("abcd"), b in config("cdef")) {
        let (a, b) = (applied(node(), &a), applied(node(), &b));
        let mut both = a.clone();
        both.add(&b);
        let mut rest = both.clone();
        rest.subtract(&b);
        let mut only = a.clone();
        only.subtract(&b);
        prop_assert_eq!(&rest, &only);
        only.add(&a.intersection(&b));
        prop_assert_eq!(only, a);
    }
}
