//! What is no guest, or a bad one.

use std::fs;

use super::*;
use crate::runtime::PrepareError;

async fn refused(node: &Node, wasm: &[u8]) -> PrepareError {
    let (spec, _) = node.spec("bad", wasm);
    match node.start_error(spec).await {
        StartError::Prepare(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_wasm_is_told_from_what_is_broken() {
    let node = Node::new();
    let elf = refused(&node, b"\x7fELF and more").await;
    assert!(matches!(&elf, PrepareError::NotWasm(what) if what.contains("ELF")), "{elf}");
    let mut broken = sample("hello-http").to_vec();
    broken.truncate(broken.len() / 2);
    let broken = refused(&node, &broken).await;
    assert!(matches!(&broken, PrepareError::Invalid(_)), "{broken}");
}

#[tokio::test]
async fn an_unknown_import_is_named() {
    let node = Node::new();
    let core = wat(r#"(module (import "env" "magic" (func)) (func (export "_start")))"#);
    let error = refused(&node, &core).await;
    assert_eq!(error, PrepareError::UnknownImport { import: "env::magic".to_string() });
    let component = wat(r#"(component
            (import "acme:magic/wand@1.0.0" (instance (export "wave" (func))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#);
    let error = refused(&node, &component).await;
    let PrepareError::UnknownImport { import } = &error else { panic!("{error:?}") };
    assert!(import.contains("acme:magic/wand@1.0.0"), "{import}");
}

#[tokio::test]
async fn what_has_no_entry_is_told_what_it_exports() {
    let node = Node::new();
    let error = refused(&node, &wat(r#"(module (func (export "add")))"#)).await;
    assert_eq!(error, PrepareError::NoEntry { exports: "add".to_string() });
    let error = refused(&node, &wat("(component)")).await;
    assert_eq!(error, PrepareError::NoEntry { exports: "nothing".to_string() });
}

/// One function of about 3 MB: blocks whose every exit keeps thousands of values alive.
fn bomb() -> Vec<u8> {
    const LOCALS: u32 = 2000;
    let leb = |mut value: u32, out: &mut Vec<u8>| loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    };
    let mut body = vec![1];
    leb(LOCALS, &mut body);
    body.push(0x7e);
    let mut at = 1u32;
    while body.len() < 3 << 20 {
        at = at.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let (from, to) = (at % LOCALS, (at / LOCALS) % LOCALS);
        // local[to] = local[from] * local[to]; if it is zero, leave a block of its own.
        body.extend_from_slice(&[0x02, 0x40, 0x20]);
        leb(from, &mut body);
        body.push(0x20);
        leb(to, &mut body);
        body.extend_from_slice(&[0x7e, 0x22]);
        leb(to, &mut body);
        body.extend_from_slice(&[0x50, 0x0d, 0x00, 0x0b]);
    }
    body.push(0x0b);
    let mut code = vec![1];
    leb(body.len() as u32, &mut code);
    code.extend_from_slice(&body);
    let mut module =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0".to_vec();
    module.push(10);
    leb(code.len() as u32, &mut module);
    module.extend_from_slice(&code);
    module
}

#[tokio::test]
async fn a_module_that_explodes_the_compiler_fails_alone() {
    let node = Node::with(|config| {
        config.compile.cpu_seconds = 3;
        config.compile.memory_bytes = 1 << 30;
    });
    let (mut spec, _) = node.sample("toolbox");
    spec.args = args(&["sleep", "inf"]);
    let neighbour = node.start(spec).await;
    let error = refused(&node, &bomb()).await;
    assert!(matches!(error, PrepareError::TooBig(_)), "{error}");
    assert!(neighbour.exit().borrow().is_none());
    let left = fs::read_dir(node.dir.path().join("state/artifacts")).expect("listed");
    let left = left.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("tmp-"))
    });
    assert_eq!(left.count(), 0, "nothing half-written stays");
}

#[tokio::test]
async fn a_compiled_artifact_that_was_changed_is_never_mapped() {
    let node = Node::new();
    let module = wat(r#"(module (func (export "_start")) (memory (export "memory") 1))"#);
    let (spec, _) = node.spec("plain", &module);
    assert_eq!(node.run(spec).await.code, 0);
    let artifacts = node.dir.path().join("state/artifacts");
    let compiled = |dir: &std::path::Path| {
        let files = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("read").path());
        files.filter(|path| path.extension().is_some_and(|e| e == "cwasm")).collect::<Vec<_>>()
    };
    let [file] = &compiled(&artifacts)[..] else { panic!("one artifact") };
    let whole = fs::read(file).expect("read");
    let mut changed = whole.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    fs::write(file, &changed).expect("changed");
    // Another runtime on the same state, as after a restart.
    let mut config = node.runtime.config.clone();
    config.instances_max = Some(16);
    let again = Runtime::new(config).expect("a runtime");
    let (spec, _) = node.spec("plain", &module);
    let workload = again.start(spec).await.expect("compiled again");
    assert_eq!(wait(&workload).await.code, 0);
    assert_eq!(fs::read(file).expect("read"), whole);
}

#[tokio::test]
async fn idle_code_is_unloaded_and_comes_back() {
    let node = Node::with(|config| config.loaded_max = 2);
    let module = |n: u32| {
        wat(&format!(
            r#"(module (func (export "_start")) (memory (export "memory") 1) (global i32 (i32.const {n})))"#
        ))
    };
    for n in 0..5 {
        assert_eq!(node.run(node.spec("n", &module(n)).0).await.code, 0);
    }
    assert!(node.runtime.artifacts_loaded() <= 3, "{}", node.runtime.artifacts_loaded());
    assert_eq!(node.run(node.spec("n", &module(0)).0).await.code, 0);
}

#[tokio::test]
async fn an_endless_recursion_and_a_huge_table_end_only_themselves() {
    let node = Node::new();
    let deep = wat(r#"(module (func $f (export "_start") call $f) (memory (export "memory") 1))"#);
    let exit = node.run(node.spec("deep", &deep).0).await;
    assert_eq!(exit.code, 134);
    assert!(exit.message.contains("stack"), "{}", exit.message);
    // More elements than a slot of the pool has: it runs on the other engine, within its limit.
    let wide = wat(
        r#"(module (table 2000000 funcref) (func (export "_start")) (memory (export "memory") 1))"#,
    );
    let (mut spec, _) = node.spec("wide", &wide);
    assert_eq!(node.run(spec.clone()).await.code, 0);
    spec.limits.memory_bytes_max = Some(1 << 20);
    assert_eq!(node.run(spec).await.code, 137);
}
