//! Expressions as Kubernetes' users write them.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn object() -> Json {
    json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "x", "a.b/c": "1"}},
        "spec": {"replicas": 3, "cpu": "500m", "ports": [{"port": 80}, {"port": 443, "name": "s"}],
            "x-y": 7, "ratio": 0.5},
    })
}

fn eval(source: &str) -> Result<Json, String> {
    let program = Program::parse(source).map_err(|e| e.to_string())?;
    let scope = Variables::default().with("self", from_json(&object()));
    let value = program.eval(&scope, &Budget::of(100_000)).map_err(|e| e.to_string())?;
    Ok(to_json(&value).unwrap_or_else(|| json!(format!("{value:?}"))))
}

#[test]
fn expressions_have_the_values_that_kubernetes_gives_them() {
    for (source, expected) in [
        ("self.spec.replicas <= 5", json!(true)),
        ("self.spec.replicas > 1 && self.metadata.name.startsWith('w')", json!(true)),
        ("self.spec.ports.all(p, p.port > 0 && p.port < 1000)", json!(true)),
        ("self.spec.ports.exists(p, has(p.name))", json!(true)),
        ("self.spec.ports.exists_one(p, p.port == 80)", json!(true)),
        ("self.spec.ports.map(p, p.port * 2)", json!([160, 886])),
        ("self.spec.ports.map(p, p.port > 100, p.port)", json!([443])),
        ("self.spec.ports.filter(p, p.port > 100).size()", json!(1)),
        ("has(self.spec.nothing) || has(self.metadata.labels)", json!(true)),
        ("self.metadata.labels['a.b/c'] == '1'", json!(true)),
        ("'app' in self.metadata.labels", json!(true)),
        ("self.metadata.labels.exists(k, k == 'app')", json!(true)),
        ("self.spec.x__dash__y == 7", json!(true)),
        ("self.metadata.__namespace__ + '/' + self.metadata.name", json!("default/web")),
        ("self.?spec.?nothing.orValue(9)", json!(9)),
        ("self.spec.?replicas.optMap(r, r + 1).orValue(0)", json!(4)),
        ("self.metadata.?labels[?'none'].hasValue()", json!(false)),
        ("[1, 2, 3].sum() + [3, 1].max()", json!(9)),
        ("quantity(self.spec.cpu).isLessThan(quantity('1'))", json!(true)),
        ("'a-b'.matches('^[a-z-]+$') ? size('äö') : 0", json!(2)),
        ("cel.bind(x, self.spec.replicas, x * x)", json!(9)),
        ("[3, 1, 2].sortBy(x, -x)", json!([3, 2, 1])),
        ("{'a': 1}.transformMap(k, v, v + 1)", json!({"a": 2})),
        ("type(self.spec.replicas) == int && dyn(1) == 1.0", json!(true)),
        ("duration('1h') > duration('59m') ? 'long' : 'short'", json!("long")),
        ("timestamp('2024-01-01T00:00:00Z') + duration('24h')", json!("2024-01-02T00:00:00Z")),
        ("-5 % 3 == -2 && 7 / 2 == 3 && 0x10 == 16 && 2u + 1u == 3u", json!(true)),
        ("\"\\u00e4\" + r'\\n' + '''x'''", json!("ä\\nx")),
        ("Object{spec: Object.spec{replicas: 2}}", json!({"spec": {"replicas": 2}})),
        ("[?optional.of(1), ?optional.none(), 2]", json!([1, 2])),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && isURL('https://x')", json!(true)),
        ("'%s-%d'.format(['a', 3])", json!("a-3")),
        ("semver('1.2.3').isGreaterThan(semver('1.2.0'))", json!(true)),
        ("self.spec.nothing == 1 || true", json!(true)),
        ("!true || !!true // a comment", json!(true)),
        ("sets.contains([1, 2], [1]) && math.greatest(1, 5) == 5", json!(true)),
    ] {
        assert_eq!(eval(source), Ok(expected), "{source}");
    }
}

#[test]
fn what_has_no_value_says_why() {
    for (source, expected) in [
        ("self.spec.nothing == 1", "no such key: nothing"),
        ("self.metadata.name.x", "no such key: x"),
        ("1 / 0", "division by zero"),
        ("1 + 'a'", "no such overload: _+_"),
        ("nobody", "undeclared reference to 'nobody' (in container '')"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.spec.ports[7]", "index out of bounds"),
    ] {
        assert_eq!(eval(source), Err(expected.to_owned()), "{source}");
    }
}

#[test]
fn what_costs_too_much_ends_whatever_stands_around_it() {
    let list: Vec<i64> = (0..1000).collect();
    let scope = Variables::default().with("l", from_json(&json!(list)));
    let program = Program::parse("l.all(a, l.all(b, l.all(c, true))) || true").expect("sound");
    let budget = Budget::of(10_000);
    assert_eq!(program.eval(&scope, &budget), Err(EvalError::BudgetExceeded));
    assert_eq!(budget.left(), 0);
    let endless = Program::parse("lists.range(100000000000).size() > 0").expect("sound");
    assert_eq!(endless.eval(&scope, &Budget::of(10_000)), Err(EvalError::BudgetExceeded));
}

#[test]
fn what_lies_too_deep_is_refused() {
    for source in ["(".repeat(5000), "!".repeat(9) + &"[".repeat(3000), "1+".repeat(9000) + "1"] {
        let refused = Program::parse(&source);
        assert!(refused.is_err(), "{}", &source[..20]);
    }
    let long = vec!["true"; 2000].join(" && ");
    assert!(Program::parse(&long).is_ok(), "a long chain is not deep");
}

struct Web;

impl Fields for Web {
    fn name(&self) -> String {
        "Web".into()
    }

    fn field(&self, name: &str) -> Option<Type> {
        Some(match name {
            "replicas" => Type::Int,
            "name" => Type::String,
            "tags" => Type::list(Type::String),
            "labels" => Type::map(Type::String),
            "inner" => Type::Object(Arc::new(Web)),
            _ => return None,
        })
    }
}

fn checked(source: &str) -> String {
    let declared = Declarations::default().with("self", Type::Object(Arc::new(Web)));
    let program = match Program::parse(source) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    match program.check(&declared) {
        Ok(found) => found.to_string(),
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn types_are_found_and_mistakes_told_where_they_stand() {
    for (source, expected) in [
        ("self.replicas > 1", "bool"),
        ("self.inner.inner.tags.map(t, t.size())", "list(int)"),
        ("self.labels.all(k, self.labels[k].startsWith('x'))", "bool"),
        ("self.?name.orValue('')", "string"),
        ("dyn(self.replicas) == 'x'", "bool"),
        ("self.foo > 1", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo > 1\n | ....^"),
        (
            "self.name > 1",
            "ERROR: <input>:1:11: found no matching overload for '_>_' applied to '(string, \
             int)'\n | self.name > 1\n | ..........^",
        ),
        (
            "self.name.frobnicate()",
            "ERROR: <input>:1:21: undeclared reference to 'frobnicate' (in container '')\n | \
             self.name.frobnicate()\n | ....................^",
        ),
        (
            "other",
            "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other\n | ^",
        ),
        ("1 +", "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'\n | 1 +\n | ...^"),
    ] {
        assert_eq!(checked(source), expected, "{source}");
    }
}

proptest! {
    #[test]
    fn nothing_that_is_written_makes_the_parser_panic(source in "[a-z0-9.()\\[\\]{}?:'\"+*&|<>=!, -]{0,60}") {
        if let Ok(program) = Program::parse(&source) {
            let scope = Variables::default().with("a", from_json(&object()));
            let _ = program.eval(&scope, &Budget::of(1000));
            let _ = program.check(&Declarations::default());
        }
    }

    #[test]
    fn nothing_at_all_makes_the_parser_panic(source in any::<String>()) {
        let _ = Program::parse(&source);
    }
}
