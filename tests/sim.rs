//! A small simulation through the binary: hollow nodes join, pods run, faults come and pass.

use std::process::Command;

fn sim(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("sim")
        .args(args)
        .env_remove("CORACLE_LOG")
        .output()
        .expect("the binary starts");
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_cluster_of_hollow_nodes_comes_to_rest_after_faults() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = dir.path().join("faults.yaml");
    let faults = "faults:
- {after: 500ms, kind: disconnect, share: 50%}
- {after: 1s, kind: delete-pods, share: 20%}
- {after: 2s, kind: crash-server}
- {after: 6s, kind: silence, share: 20%, lasts: 3s}
";
    std::fs::write(&plan, faults).expect("it can be written");
    let data = dir.path().join("data");
    let (plan, data) = (plan.display().to_string(), data.display().to_string());
    let (code, text) = sim(&[
        "--nodes=12",
        "--pods=60",
        "--seed=7",
        "--idle=0",
        "--heartbeat=1s",
        "--patience=4m",
        "--fault-plan",
        &plan,
        "--data-dir",
        &data,
    ]);
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "12 nodes joined in ",
        "60 pods bound in ",
        "every node was told of exactly its pods; no pod was given to two",
        "fdatasync of 1 KiB, p50",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_plan_that_cannot_be_used_is_refused_by_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = dir.path().join("faults.yaml");
    std::fs::write(&plan, "faults: [{after: 1s, kind: fire}]").expect("it can be written");
    let (code, text) = sim(&["--fault-plan", &plan.display().to_string()]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("faults[0].kind: \"fire\" is none of"), "{text}");
}
