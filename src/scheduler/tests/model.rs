//! Random clusters against a model that knows nothing of indexes: nothing that is bound may break a
//! hard rule, and what is refused must have been impossible.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Spec {
    cpu: i64,
    app: u8,
    priority: i32,
    port: Option<u16>,
    tolerates: bool,
    far: bool,
    near: bool,
    skew: Option<i32>,
    big: bool,
}

#[derive(Debug, Clone)]
enum Act {
    Create(Spec),
    Delete(usize),
    Fail(usize),
    Node { name: u8, cpu: i64, tainted: bool, big: bool },
    Run,
}

fn spec() -> impl Strategy<Value = Spec> {
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), prop::bool::weighted(0.15));
    let port = prop::option::weighted(0.2, 80..82u16);
    let skew = prop::option::weighted(0.2, 1..3i32);
    (1..9i64, 0..3u8, 0..3i32, port, flags, skew, prop::bool::weighted(0.2)).prop_map(
        |(cpu, app, priority, port, (tolerates, far, near), skew, big)| Spec {
            cpu: cpu * 100,
            app,
            priority,
            port,
            tolerates,
            far,
            near,
            skew,
            big,
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    let node = (0..5u8, 5..20i64, prop::bool::weighted(0.2), any::<bool>());
    prop_oneof![
        6 => spec().prop_map(Act::Create),
        2 => any::<usize>().prop_map(Act::Delete),
        1 => any::<usize>().prop_map(Act::Fail),
        2 => node.prop_map(|(name, cpu, tainted, big)| Act::Node { name, cpu: cpu * 100, tainted, big }),
        3 => Just(Act::Run),
    ]
}

#[derive(Debug, Clone)]
struct ModelNode {
    cpu: i64,
    tainted: bool,
    big: bool,
    zone: String,
}

/// What a reader of the rules would keep: nodes, and who is where.
#[derive(Default)]
struct Model {
    nodes: HashMap<String, ModelNode>,
    there: HashMap<String, (Spec, String)>,
}

impl Model {
    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Spec> {
        self.there.values().filter(move |(_, on)| on == node).map(|(spec, _)| spec)
    }

    fn in_zone<'a>(&'a self, zone: &'a str) -> impl Iterator<Item = &'a Spec> {
        let zone_of = |on: &str| self.nodes.get(on).map(|node| node.zone.as_str());
        self.there.values().filter(move |(_, on)| zone_of(on) == Some(zone)).map(|(spec, _)| spec)
    }

    /// Which hard rule keeps the pod from the node.
    fn broken(&self, spec: &Spec, name: &str) -> Option<&'static str> {
        let node = self.nodes.get(name)?;
        if self.on(name).map(|other| other.cpu).sum::<i64>() + spec.cpu > node.cpu {
            return Some("cpu");
        }
        if self.on(name).count() >= 10 {
            return Some("pods");
        }
        if node.tainted && !spec.tolerates {
            return Some("taint");
        }
        if spec.big && !node.big {
            return Some("selector");
        }
        if spec.port.is_some() && self.on(name).any(|other| other.port == spec.port) {
            return Some("port");
        }
        let same = |other: &&Spec| other.app == spec.app;
        let mut alike = self.on(name).filter(same);
        if alike.any(|other| other.far || spec.far) {
            return Some("anti-affinity");
        }
        let any = self
            .there
            .iter()
            .any(|(_, (other, on))| other.app == spec.app && self.nodes.contains_key(on));
        if spec.near && any && self.in_zone(&node.zone).filter(same).count() == 0 {
            return Some("affinity");
        }
        let skew = i64::from(spec.skew?);
        let admitted = self.nodes.values().filter(|node| !spec.big || node.big);
        let counted = |zone: &str| {
            let on = |on: &str| {
                self.nodes.get(on).is_some_and(|n| n.zone == zone && (!spec.big || n.big))
            };
            self.there.values().filter(|(s, node)| s.app == spec.app && on(node)).count() as i64
        };
        let least = admitted.map(|node| counted(&node.zone)).min().unwrap_or(0);
        (counted(&node.zone) + 1 - least > skew).then_some("spread")
    }
}

fn object(name: &str, spec: &Spec) -> Arc<Pod> {
    let app = format!("a{}", spec.app);
    let labels = json!({"app": app});
    let term =
        |key: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]);
    let mut more = with(wants(&format!("{}m", spec.cpu), "1Mi"), labelled(labels));
    more["spec"]["priority"] = json!(spec.priority);
    if let Some(port) = spec.port {
        more["spec"]["containers"][0]["ports"] = json!([{"hostPort": port}]);
    }
    if spec.tolerates {
        more["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    }
    if spec.big {
        more["spec"]["nodeSelector"] = json!({"size": "big"});
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if spec.far {
        more["spec"]["affinity"]["podAntiAffinity"][required] = term("kubernetes.io/hostname");
    }
    if spec.near {
        more["spec"]["affinity"]["podAffinity"][required] = term("zone");
    }
    if let Some(skew) = spec.skew {
        more["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}},
        }]);
    }
    pod(name, more)
}

struct World {
    state: State,
    model: Model,
    specs: HashMap<String, Spec>,
    names: Vec<String>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let model = Model::default();
        let state = scheduler(&[]);
        Self { state, model, specs: HashMap::new(), names: Vec::new(), now: Duration::ZERO }
    }

    fn apply(&mut self, act: Act) -> Result<(), TestCaseError> {
        // Past every backoff, so that what can be tried is tried.
        self.now += 20 * SECOND;
        match act {
            Act::Create(spec) => {
                let name = format!("p{}", self.names.len());
                see(&mut self.state, &object(&name, &spec), self.now);
                self.specs.insert(name.clone(), spec);
                self.names.push(name);
            }
            Act::Delete(at) if !self.names.is_empty() => {
                let name = self.names[at % self.names.len()].clone();
                self.delete(&name);
            }
            Act::Fail(at) => {
                let mut bound: Vec<&String> = self.model.there.keys().collect();
                bound.sort();
                if let Some(name) = bound.get(at % bound.len().max(1)).copied().cloned() {
                    let (spec, node) = self.model.there[&name].clone();
                    let pod = object(&name, &spec);
                    if self.state.snapshot().is_assumed(&pod.uid) {
                        self.state.not_bound(&pod, &node, true, self.now);
                        self.model.there.remove(&name);
                    }
                }
            }
            Act::Node { name, cpu, tainted, big } => self.node(name, cpu, tainted, big),
            Act::Delete(_) => {}
            Act::Run => self.run()?,
        }
        Ok(())
    }

    fn delete(&mut self, name: &str) {
        let key = crate::client::Key::new("default", name);
        self.state.pod(key, None, self.now);
        self.specs.remove(name);
        self.model.there.remove(name);
    }

    fn node(&mut self, name: u8, cpu: i64, tainted: bool, big: bool) {
        let zone = format!("z{}", name % 2);
        let name = format!("n{name}");
        let taints =
            if tainted { json!([{"key": "t", "effect": "NoSchedule"}]) } else { json!([]) };
        let labels = json!({"zone": zone, "size": if big { "big" } else { "small" }});
        let more = json!({
            "metadata": {"labels": labels}, "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": format!("{cpu}m")}},
        });
        self.state.node(&name, Some(node(&name, more)), self.now);
        self.model.nodes.insert(name, ModelNode { cpu, tainted, big, zone });
    }

    fn run(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            let Some(step) = self.state.next(self.now) else { return Ok(()) };
            match step {
                Step::Bind { pod, node, .. } => {
                    let spec = self.specs[&pod.key.name].clone();
                    let broken = self.model.broken(&spec, &node);
                    prop_assert_eq!(broken, None, "{} {:?} on {}", pod.key.name, spec, node);
                    self.model.there.insert(pod.key.name.clone(), (spec, node.to_string()));
                }
                Step::Refuse { pod, room: None, why, .. } => {
                    let spec = &self.specs[&pod.key.name];
                    let free: Vec<&String> = self
                        .model
                        .nodes
                        .keys()
                        .filter(|node| self.model.broken(spec, node).is_none())
                        .filter(|node| !self.is_kept(node))
                        .collect();
                    prop_assert!(free.is_empty(), "{spec:?} would go to {free:?}: {why}");
                }
                Step::Refuse { pod, room: Some(room), .. } => {
                    let spec = self.specs[&pod.key.name].clone();
                    for victim in &room.victims {
                        prop_assert!(victim.priority < spec.priority);
                        self.delete(&victim.key.name.clone());
                    }
                    let broken = self.model.broken(&spec, &room.node);
                    prop_assert_eq!(broken, None, "room for {:?} on {}", spec, room.node);
                }
            }
        }
        Err(TestCaseError::fail("it never comes to rest"))
    }

    fn is_kept(&self, node: &str) -> bool {
        self.state.snapshot().node(node).is_some_and(|info| !info.nominated.is_empty())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_bound_breaks_a_rule_and_nothing_refused_was_possible(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new();
        for act in acts {
            world.apply(act)?;
        }
        world.apply(Act::Run)?;
    }
}
