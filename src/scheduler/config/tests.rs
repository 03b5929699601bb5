//! Configurations as users write them.

use proptest::proptest;

use super::file::{FileError, read};
use super::*;

fn file(rest: &str) -> String {
    format!("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{rest}")
}

#[test]
fn an_empty_configuration_is_the_default_one() {
    assert_eq!(read(&file("")), Ok(Configuration::default()));
}

#[test]
fn profiles_choose_plugins_and_weights() {
    let text = file(
        "
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
percentageOfNodesToScore: 30
leaderElection: {leaderElect: true}
profiles:
- schedulerName: default-scheduler
  plugins:
    score:
      disabled: [{name: ImageLocality}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
    postFilter:
      disabled: [{name: '*'}]
- schedulerName: bare
  percentageOfNodesToScore: 100
  plugins:
    multiPoint:
      disabled: [{name: TaintToleration}, {name: PodTopologySpread}]
",
    );
    let read = read(&text).expect("it is read");
    assert_eq!(read.backoff_first, Duration::from_secs(2));
    let [first, bare] = &read.profiles[..] else { panic!("there are two profiles") };
    assert_eq!(first.weight(Plugin::NodeResourcesFit), 5);
    assert_eq!(first.weight(Plugin::ImageLocality), 0);
    assert_eq!((first.preempts, bare.preempts), (false, true));
    let percentages = [first, bare].map(|p| p.percentage_of_nodes_to_score);
    assert_eq!(percentages, [Some(30), Some(100)]);
    assert!(!bare.filters.contains(&Plugin::TaintToleration));
    assert_eq!(bare.weight(Plugin::TaintToleration), 0);
    assert!(bare.filters.contains(&Plugin::NodeAffinity));
}

#[test]
fn arguments_of_plugins_are_taken() {
    let text = file(
        "
profiles:
- pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResourceGroups: [example.com]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: example.com/gpu, weight: 3}, {name: cpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints:
      - {maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
          - matchExpressions: [{key: pool, operator: In, values: [edge]}]
",
    );
    let read = read(&text).expect("it is read");
    let profile = &read.profiles[0];
    let shape = Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]);
    assert_eq!(profile.fit.strategy, shape);
    let resources = [("example.com/gpu".to_owned(), 3), ("cpu".to_owned(), 1)];
    assert_eq!(profile.fit.resources, resources);
    assert!(profile.fit.ignores("example.com/gpu") && !profile.fit.ignores("cpu"));
    let SpreadDefaults::List(constraints) = &profile.spread else { panic!("a list") };
    assert_eq!((constraints[0].max_skew, &*constraints[0].topology_key), (1, "rack"));
    assert_eq!(profile.hard_pod_affinity_weight, 7);
    assert!(profile.ignore_preferred_terms_of_existing_pods);
    assert_eq!(profile.added.required.as_ref().map(Vec::len), Some(1));
}

#[test]
fn what_cannot_be_used_is_refused_by_its_path() {
    let profile = |rest: &str| file(&format!("profiles:\n- {rest}\n"));
    let table = [
        ("kind: x".to_owned(), "apiVersion is \"\": write apiVersion: kubescheduler"),
        (file("podInitialBackoffSeconds: 0"), "podInitialBackoffSeconds: 0 is no number"),
        (file("percentageOfNodesToScore: 101"), "percentageOfNodesToScore: 101 is not between"),
        (file("extenders: [{}]"), "extenders: extenders are not supported"),
        (profile("schedulerName: ''"), "profiles[0].schedulerName: it is empty"),
        (profile("name: x"), "unknown field `name`"),
        (
            file("profiles: [{schedulerName: a}, {schedulerName: a}]"),
            "profiles[1].schedulerName: \"a\" is the name of an earlier profile",
        ),
        (
            profile("plugins: {score: {enabled: [{name: Fast}]}}"),
            "profiles[0].plugins.score.enabled[0].name: \"Fast\" is no plugin here",
        ),
        (
            profile("plugins: {score: {enabled: [{name: NodeName}]}}"),
            "profiles[0].plugins.score: NodeName does nothing there",
        ),
        (
            profile("plugins: {score: {enabled: [{name: ImageLocality, weight: 101}]}}"),
            "enabled[0].weight: 101 is not 0 to 100",
        ),
        (profile("plugins: {bind: {disabled: [{name: '*'}]}}"), "plugins.bind: no plugin"),
        (
            profile("pluginConfig: [{name: NodeName, args: {a: 1}}]"),
            "pluginConfig[0].args: NodeName takes no arguments",
        ),
        (
            profile(
                "pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Most}}}]",
            ),
            "args.scoringStrategy.type: \"Most\" is none of",
        ),
        (
            profile(
                "pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}}]",
            ),
            "args.defaultConstraints: when .defaultingType is System",
        ),
    ];
    for (text, expected) in table {
        let told = read(&text).expect_err(&text).to_string();
        assert!(told.contains(expected), "{text}\n{told}");
    }
    assert!(matches!(read("a: ["), Err(FileError::Syntax(_))));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[a-zA-Z:{}\\[\\]' 0-9\n-]{0,200}") {
        let _ = read(&file(&text));
        let _ = read(&text);
    }
}
