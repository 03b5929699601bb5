//! Reads a `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`).
//!
//! What Kubernetes would refuse is refused, with the path of the field. What has no meaning here
//! (client connection, leader election, parallelism) is read over.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde_json::Value;

use super::{
    AddedAffinity, Configuration, Fit, Packing, Plugin, Profile, SpreadDefaults, Strategy,
};
use crate::scheduler::terms::{Constraint, NodeTerm, WhenUnsatisfiable};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Kubernetes' own largest weight and score of a shape.
const WEIGHT_MAX: i64 = 100;
const SHAPE_SCORE_MAX: i64 = 10;
const DEFAULT_CONSTRAINTS_MAX: usize = 100;
const PROFILES_MAX: usize = 100;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("it is no YAML: {0}")]
    Syntax(String),
    #[error("apiVersion is {0:?}: write apiVersion: {API_VERSION}")]
    Version(String),
    #[error("kind is {0:?}: write kind: {KIND}")]
    Kind(String),
    #[error("{path}: {why}")]
    Field { path: String, why: String },
}

fn bad<T>(path: impl Into<String>, why: impl Into<String>) -> Result<T, FileError> {
    Err(FileError::Field { path: path.into(), why: why.into() })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    profiles: Vec<ProfileFile>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    extenders: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProfileFile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    plugins: PluginsFile,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PluginsFile {
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
    multi_point: Set,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

/// What a text says.
///
/// # Errors
/// [`FileError`] names the field.
pub fn read(text: &str) -> Result<Configuration, FileError> {
    let value: Value =
        serde_saphyr::from_str(text).map_err(|error| FileError::Syntax(error.to_string()))?;
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    if word("apiVersion") != API_VERSION {
        return Err(FileError::Version(word("apiVersion")));
    }
    if word("kind") != KIND {
        return Err(FileError::Kind(word("kind")));
    }
    let file: File = match serde_json::from_value(value) {
        Ok(file) => file,
        Err(error) => return bad(KIND, error.to_string()),
    };
    if !file.extenders.is_empty() {
        return bad("extenders", "extenders are not supported: a plugin has to be built in");
    }
    configuration(file)
}

fn configuration(file: File) -> Result<Configuration, FileError> {
    let mut read = Configuration::default();
    let seconds = |path: &str, given: Option<i64>, default: Duration| match given {
        None => Ok(default),
        Some(n) => match u64::try_from(n) {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => bad(path, format!("{n} is no number of seconds above 0")),
        },
    };
    read.backoff_first =
        seconds("podInitialBackoffSeconds", file.pod_initial_backoff_seconds, read.backoff_first)?;
    read.backoff_max =
        seconds("podMaxBackoffSeconds", file.pod_max_backoff_seconds, read.backoff_max)?;
    if read.backoff_max < read.backoff_first {
        return bad("podMaxBackoffSeconds", "it is less than podInitialBackoffSeconds");
    }
    if file.profiles.len() > PROFILES_MAX {
        return bad("profiles", format!("there are more than {PROFILES_MAX}"));
    }
    let all = percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
    let profiles =
        if file.profiles.is_empty() { vec![ProfileFile::default()] } else { file.profiles };
    read.profiles.clear();
    for (at, written) in profiles.into_iter().enumerate() {
        let mut profile = profile(&format!("profiles[{at}]"), written)?;
        profile.percentage_of_nodes_to_score = profile.percentage_of_nodes_to_score.or(all);
        if read.profile(&profile.name).is_some() {
            return bad(
                format!("profiles[{at}].schedulerName"),
                format!("{:?} is the name of an earlier profile already", profile.name),
            );
        }
        read.profiles.push(profile);
    }
    Ok(read)
}

fn percentage(path: &str, given: Option<i64>) -> Result<Option<usize>, FileError> {
    match given {
        None | Some(0) => Ok(None),
        Some(n @ 1..=100) => Ok(Some(usize::try_from(n).expect("it is between 1 and 100"))),
        Some(n) => bad(path, format!("{n} is not between 0 and 100")),
    }
}

fn profile(path: &str, written: ProfileFile) -> Result<Profile, FileError> {
    let mut profile = Profile::default();
    if let Some(name) = written.scheduler_name {
        if name.is_empty() {
            return bad(format!("{path}.schedulerName"), "it is empty");
        }
        profile.name = name;
    }
    profile.percentage_of_nodes_to_score = percentage(
        &format!("{path}.percentageOfNodesToScore"),
        written.percentage_of_nodes_to_score,
    )?;
    plugins(&format!("{path}.plugins"), &written.plugins, &mut profile)?;
    let mut seen = Vec::new();
    for (at, config) in written.plugin_config.into_iter().enumerate() {
        let path = format!("{path}.pluginConfig[{at}]");
        if seen.contains(&config.name) {
            return bad(path, format!("{} was configured before", config.name));
        }
        arguments(&path, &config, &mut profile)?;
        seen.push(config.name);
    }
    Ok(profile)
}

fn named(path: &str, name: &str) -> Result<Plugin, FileError> {
    let Some(plugin) = Plugin::named(name) else {
        let known: Vec<String> = Plugin::ALL.iter().map(ToString::to_string).collect();
        return bad(path, format!("{name:?} is no plugin here; there are {}", known.join(", ")));
    };
    Ok(plugin)
}

/// Which of `from` stay, and which are added.
fn apply(path: &str, set: &Set, from: &mut Vec<(Plugin, i64)>) -> Result<(), FileError> {
    for (at, off) in set.disabled.iter().enumerate() {
        if off.name == "*" {
            from.clear();
            continue;
        }
        let plugin = named(&format!("{path}.disabled[{at}].name"), &off.name)?;
        from.retain(|(p, _)| *p != plugin);
    }
    for (at, on) in set.enabled.iter().enumerate() {
        let path = format!("{path}.enabled[{at}]");
        let plugin = named(&format!("{path}.name"), &on.name)?;
        if !(0..=WEIGHT_MAX).contains(&on.weight) {
            return bad(
                format!("{path}.weight"),
                format!("{} is not 0 to {WEIGHT_MAX}", on.weight),
            );
        }
        let weight = if on.weight == 0 { plugin.weight().unwrap_or(1) } else { on.weight };
        from.retain(|(p, _)| *p != plugin);
        from.push((plugin, weight));
    }
    Ok(())
}

fn plugins(path: &str, written: &PluginsFile, profile: &mut Profile) -> Result<(), FileError> {
    let mut all: Vec<(Plugin, i64)> =
        Plugin::ALL.iter().map(|plugin| (*plugin, plugin.weight().unwrap_or(0))).collect();
    apply(&format!("{path}.multiPoint"), &written.multi_point, &mut all)?;
    let at = |name: &str, sets: &[&Set], can: fn(Plugin) -> bool| {
        let mut here: Vec<_> = all.iter().filter(|(plugin, _)| can(*plugin)).copied().collect();
        for set in sets {
            let path = format!("{path}.{name}");
            apply(&path, set, &mut here)?;
            if let Some((wrong, _)) = here.iter().find(|(plugin, _)| !can(*plugin)) {
                return bad(path, format!("{wrong} does nothing there"));
            }
        }
        Ok(here)
    };
    // Kubernetes lets the halves of a rule be switched one by one; here they are one.
    let filters = at("filter", &[&written.filter], |plugin| plugin.filters())?;
    let scores = at("score", &[&written.score], |plugin| plugin.weight().is_some())?;
    let post = at("postFilter", &[&written.post_filter], |p| p == Plugin::DefaultPreemption)?;
    let permit = at("permit", &[&written.permit], |p| p == Plugin::Coscheduling)?;
    let sort = at("queueSort", &[&written.queue_sort], |p| p == Plugin::PrioritySort)?;
    if sort.is_empty() {
        return bad(format!("{path}.queueSort"), "no plugin is enabled: leave PrioritySort on");
    }
    let bind = at("bind", &[&written.bind], |p| p == Plugin::DefaultBinder)?;
    if bind.is_empty() {
        return bad(format!("{path}.bind"), "no plugin is enabled: leave DefaultBinder on");
    }
    let others = [
        ("preEnqueue", &written.pre_enqueue),
        ("preFilter", &written.pre_filter),
        ("preScore", &written.pre_score),
        ("reserve", &written.reserve),
        ("preBind", &written.pre_bind),
        ("postBind", &written.post_bind),
    ];
    for (name, set) in others {
        apply(&format!("{path}.{name}"), set, &mut Vec::new())?;
    }
    profile.filters = filters.into_iter().map(|(plugin, _)| plugin).collect();
    // Filters run in an order in which the cheap ones are first, whatever the file's.
    profile.filters.sort_unstable();
    profile.scores = scores;
    profile.preempts = !post.is_empty();
    profile.gangs = !permit.is_empty();
    Ok(())
}

fn decode<T: for<'de> Deserialize<'de>>(path: &str, args: &Value) -> Result<T, FileError> {
    let mut args = args.clone();
    if args.is_null() {
        args = Value::Object(serde_json::Map::new());
    }
    if let Some(map) = args.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    serde_json::from_value(args).or_else(|error| bad(format!("{path}.args"), error.to_string()))
}

fn arguments(path: &str, config: &PluginConfig, profile: &mut Profile) -> Result<(), FileError> {
    let plugin = named(&format!("{path}.name"), &config.name)?;
    let kind = config.args["kind"].as_str();
    if let Some(kind) = kind.filter(|kind| *kind != format!("{plugin}Args")) {
        return bad(format!("{path}.args.kind"), format!("{kind:?} is not {plugin}Args"));
    }
    let (args, inside) = (&config.args, format!("{path}.args"));
    match plugin {
        Plugin::NodeResourcesFit => profile.fit = fit(&inside, decode(path, args)?)?,
        Plugin::NodeResourcesBalancedAllocation => {
            let args: BalancedArgs = decode(path, args)?;
            if !args.resources.is_empty() {
                profile.balanced = args.resources.into_iter().map(|r| r.name).collect();
            }
        }
        Plugin::PodTopologySpread => profile.spread = spread(&inside, decode(path, args)?)?,
        Plugin::InterPodAffinity => {
            let args: InterPodAffinityArgs = decode(path, args)?;
            let weight = args.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&weight) {
                let why = format!("{weight} is not between 0 and 100");
                return bad(format!("{inside}.hardPodAffinityWeight"), why);
            }
            profile.hard_pod_affinity_weight = weight;
            profile.ignore_preferred_terms_of_existing_pods =
                args.ignore_preferred_terms_of_existing_pods;
        }
        Plugin::NodeAffinity => {
            let args: NodeAffinityArgs = decode(path, args)?;
            profile.added = added(args.added_affinity.unwrap_or_default());
        }
        Plugin::VolumeBinding => {
            let args: VolumeBindingArgs = decode(path, args)?;
            let seconds = args.bind_timeout_seconds.unwrap_or(600);
            let Ok(seconds) = u64::try_from(seconds) else {
                return bad(format!("{inside}.bindTimeoutSeconds"), "it is negative");
            };
            profile.bind_timeout = Duration::from_secs(seconds);
        }
        Plugin::DefaultPreemption => {
            let args: PreemptionArgs = decode(path, args)?;
            let percent = args.min_candidate_nodes_percentage.unwrap_or(10);
            if percent > 100 {
                let why = format!("{percent} is more than 100");
                return bad(format!("{inside}.minCandidateNodesPercentage"), why);
            }
            let absolute = args.min_candidate_nodes_absolute.unwrap_or(100);
            if percent == 0 && absolute == 0 {
                return bad(inside, "with both minima 0 no node would ever be looked at");
            }
            profile.preemption_candidates_percent = percent;
            profile.preemption_candidates_min = absolute;
        }
        _ if config.args.is_null() => {}
        _ => return bad(inside, format!("{plugin} takes no arguments")),
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct FitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Weighed>,
    requested_to_capacity_ratio: Option<RatioArgs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighed {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioArgs {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct BalancedArgs {
    resources: Vec<Weighed>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpreadArgs {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct VolumeBindingArgs {
    bind_timeout_seconds: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

fn fit(path: &str, args: FitArgs) -> Result<Fit, FileError> {
    let mut fit = Fit {
        ignored: args.ignored_resources,
        ignored_groups: args.ignored_resource_groups,
        ..Fit::default()
    };
    let Some(written) = args.scoring_strategy else { return Ok(fit) };
    let path = format!("{path}.scoringStrategy");
    if !written.resources.is_empty() {
        fit.resources.clear();
    }
    for (at, resource) in written.resources.into_iter().enumerate() {
        let weight = if resource.weight == 0 { 1 } else { resource.weight };
        if !(1..=WEIGHT_MAX).contains(&weight) {
            let why = format!("{weight} is not between 1 and {WEIGHT_MAX}");
            return bad(format!("{path}.resources[{at}].weight"), why);
        }
        fit.resources.push((resource.name, weight));
    }
    fit.strategy = match written.kind.as_str() {
        "" | "LeastAllocated" => Strategy::Packing(Packing::LeastAllocated),
        "MostAllocated" => Strategy::Packing(Packing::MostAllocated),
        "RequestedToCapacityRatio" => {
            let path = format!("{path}.requestedToCapacityRatio.shape");
            shape(&path, written.requested_to_capacity_ratio.map(|r| r.shape).unwrap_or_default())?
        }
        other => {
            let why = format!(
                "{other:?} is none of LeastAllocated, MostAllocated, RequestedToCapacityRatio"
            );
            return bad(format!("{path}.type"), why);
        }
    };
    Ok(fit)
}

fn shape(path: &str, points: Vec<Point>) -> Result<Strategy, FileError> {
    if points.is_empty() {
        return bad(path, "at least one point must be specified");
    }
    let mut read: Vec<(i64, i64)> = Vec::with_capacity(points.len());
    for (at, point) in points.into_iter().enumerate() {
        if !(0..=100).contains(&point.utilization) {
            let why = format!("{} is not between 0 and 100", point.utilization);
            return bad(format!("{path}[{at}].utilization"), why);
        }
        if read.last().is_some_and(|(before, _)| *before >= point.utilization) {
            let why = "utilization values must be sorted in increasing order";
            return bad(format!("{path}[{at}].utilization"), why);
        }
        if !(0..=SHAPE_SCORE_MAX).contains(&point.score) {
            let why = format!("{} is not between 0 and {SHAPE_SCORE_MAX}", point.score);
            return bad(format!("{path}[{at}].score"), why);
        }
        read.push((point.utilization, point.score * 100 / SHAPE_SCORE_MAX));
    }
    Ok(Strategy::RequestedToCapacityRatio(read))
}

fn spread(path: &str, args: SpreadArgs) -> Result<SpreadDefaults, FileError> {
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if args.default_constraints.is_empty() => return Ok(SpreadDefaults::System),
        "System" => {
            let why = "when .defaultingType is System, no constraints may be given: write List";
            return bad(format!("{path}.defaultConstraints"), why);
        }
        "List" => {}
        other => {
            return bad(
                format!("{path}.defaultingType"),
                format!("{other:?} is not System or List"),
            );
        }
    }
    if args.default_constraints.len() > DEFAULT_CONSTRAINTS_MAX {
        return bad(path, format!("there are more than {DEFAULT_CONSTRAINTS_MAX} constraints"));
    }
    let mut constraints: Vec<Constraint> = Vec::new();
    for (at, written) in args.default_constraints.iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{at}]");
        if written.label_selector.is_some() {
            let why = "constraint must not define a selector: it is that of the pod's workload";
            return bad(format!("{path}.labelSelector"), why);
        }
        if written.max_skew < 1 {
            return bad(format!("{path}.maxSkew"), "must be greater than zero");
        }
        if written.topology_key.is_empty() {
            return bad(format!("{path}.topologyKey"), "can not be empty");
        }
        let mut constraint = Constraint::of(written, &std::collections::BTreeMap::new());
        constraint.selector = None;
        match written.when_unsatisfiable.as_str() {
            "DoNotSchedule" | "ScheduleAnyway" => {}
            other => {
                let why = format!("{other:?} is not DoNotSchedule or ScheduleAnyway");
                return bad(format!("{path}.whenUnsatisfiable"), why);
            }
        }
        let same = |c: &Constraint| {
            (&c.topology_key, c.when) == (&constraint.topology_key, constraint.when)
        };
        if constraints.iter().any(same) {
            let when = match constraint.when {
                WhenUnsatisfiable::DoNotSchedule => "DoNotSchedule",
                WhenUnsatisfiable::ScheduleAnyway => "ScheduleAnyway",
            };
            let why = format!("{} with {when} was given before", constraint.topology_key);
            return bad(path, why);
        }
        constraints.push(constraint);
    }
    Ok(SpreadDefaults::List(constraints))
}

fn added(written: NodeAffinity) -> AddedAffinity {
    let required = written.required_during_scheduling_ignored_during_execution;
    let preferred = written.preferred_during_scheduling_ignored_during_execution;
    AddedAffinity {
        required: required.map(|s| s.node_selector_terms.iter().map(NodeTerm::of).collect()),
        preferred: preferred
            .into_iter()
            .flatten()
            .map(|term| (i64::from(term.weight), NodeTerm::of(&term.preference)))
            .collect(),
    }
}
