//! The real `xylem plan`: files of joins and leaves against published trees, estimates, and what is
//! wrong with either.

mod run;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use run::{complaint, serve, stdout, xylem};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Files of joins and leaves.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Joins from 0 on, leaves in that order, and as many joins more.
fn ops(joins: u32, leaves: &[u32], more: u32) -> String {
    let joined = (0..joins).map(|id| format!("join {id}\n"));
    let left = leaves.iter().map(|id| format!("leave {id}\n"));
    let late = (joins..joins + more).map(|id| format!("join {id}\n"));
    joined.chain(left).chain(late).collect()
}

async fn replayed(file: &str, shape: &str) -> Value {
    let output = xylem(&["plan", "--ops", file, "--shape", shape, "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty());
    serde_json::from_str(&stdout(&output)).unwrap()
}

async fn refused(arguments: &[&str]) -> String {
    let output = xylem(arguments).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty());
    complaint(&output)
}

#[tokio::test]
async fn the_function_tree_is_the_published_one() {
    const SEVEN: &[u32] = &[8, 9, 10, 11, 12, 13, 14];
    type Case = (u32, &'static [u32], u32, &'static [&'static [u32]]);
    let cases: [Case; 9] = [
        (7, &[], 0, &[&[0], &[1, 2], &[3, 4, 5, 6]]),
        (15, &[1, 2, 3], 0, &[&[0], &[7, 11], &[8, 4, 5, 6], &[9, 10, 12, 13, 14]]),
        (15, &[0], 0, &[&[7], &[1, 2], &[3, 4, 5, 6], SEVEN]),
        (10, &[5, 6, 9], 0, &[&[1], &[3, 0], &[7, 8, 4, 2]]),
        (9, &[6, 5, 2], 0, &[&[1], &[3, 0], &[7, 8, 4]]),
        (7, &[0], 0, &[&[3], &[1, 2], &[4, 5, 6]]),
        (8, &[3, 4], 0, &[&[0], &[1, 2], &[7, 5, 6]]),
        (12, &[2], 0, &[&[0], &[1, 5], &[3, 4, 11, 6], &[7, 8, 9, 10]]),
        (9, &[6, 5, 2], 3, &[&[1], &[3, 0], &[7, 8, 4, 9], &[10, 11]]),
    ];
    let files = Files::new();
    for (joins, leaves, more, levels) in cases {
        let file = files.write("ops", ops(joins, leaves, more));
        let expected = json!({ "trees": [{ "levels": levels }] });
        assert_eq!(replayed(&file, "ft").await, expected, "{joins}; {leaves:?}; {more}");
    }
}

/// Levels of one tree as sets of nodes; each node once.
fn nodes(tree: &Value) -> Vec<i64> {
    let levels = tree["levels"].as_array().unwrap().iter();
    let mut nodes: Vec<_> =
        levels.flat_map(|level| level.as_array().unwrap()).map(|id| id.as_i64().unwrap()).collect();
    nodes.sort_unstable();
    nodes
}

#[tokio::test]
async fn twin_trees_have_all_nodes_twice() {
    let files = Files::new();
    let file = files.write("ops", ops(40, &[3, 0, 39, 17], 5));
    let all = replayed(&file, "twin").await;
    let trees = all["trees"].as_array().unwrap();
    assert_eq!(trees.len(), 2);
    let expected: Vec<i64> = (0..45).filter(|id| ![3, 0, 39, 17].contains(id)).collect();
    for tree in trees {
        assert_eq!(nodes(tree), expected);
        let levels = tree["levels"].as_array().unwrap();
        assert_eq!(levels[0].as_array().unwrap().len(), 1);
        assert!(levels.len() <= 7, "log2(42), rounded up, and one");
    }
    assert_ne!(trees[0]["levels"][0], trees[1]["levels"][0], "two roots");

    let none = files.write("none", "# nobody\n\n");
    let empty = json!({ "levels": [] });
    assert_eq!(replayed(&none, "twin").await, json!({ "trees": [empty, empty] }));
    let one = files.write("one", "join -5\r\n");
    let root = json!({ "levels": [[-5]] });
    assert_eq!(replayed(&one, "twin").await, json!({ "trees": [root, root] }));
}

async fn fed(text: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xylem"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn stdin_is_replayed_and_trees_are_drawn() {
    let lines = "join 10\njoin 11\n\n  # the last one\njoin 12\n";
    let output = fed(lines, &["plan", "--ops", "-", "--shape", "ft"]).await;
    let drawing = "ft, 3 nodes\nregistry\n└─ 10\n   ├─ 11\n   └─ 12\n";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (drawing, Some(0)));

    let output = fed(lines, &["plan", "--ops", "-", "--shape", "twin"]).await;
    let drawing = stdout(&output);
    assert!(drawing.starts_with("twin, 3 nodes, tree 0 of 2\nregistry\n└─ 10\n"), "{drawing}");
    assert!(drawing.contains("\n\ntwin, 3 nodes, tree 1 of 2\nregistry\n└─ 11\n"), "{drawing}");

    let output = fed("join 1\nleave 2\n", &["plan", "--ops", "-", "--shape", "ft"]).await;
    assert_eq!(complaint(&output), "xylem: stdin: line 2: 2 is not in the trees\n");
}

#[tokio::test]
async fn the_line_that_is_wrong_is_named() {
    let files = Files::new();
    for (text, said) in [
        ("join 1\n\nleap 2\n", "line 3: \"leap 2\" is neither `join ID` nor `leave ID`"),
        ("# two\njoin 1\njoin 1\n", "line 3: 1 has joined already"),
        ("leave 1", "line 1: 1 is not in the trees"),
        ("join 1\nleave 1\nleave 1\n", "line 3: 1 is not in the trees"),
        ("join a", "line 1: \"a\" is not an integer"),
        ("join 0.5", "line 1: \"0.5\" is not an integer"),
        ("join", "line 1: \"join\" is neither `join ID` nor `leave ID`"),
        ("join 1 2", "line 1: \"join 1 2\" is neither `join ID` nor `leave ID`"),
    ] {
        let file = files.write("ops", text);
        for shape in ["ft", "twin"] {
            let said = format!("xylem: {file}: {said}\n");
            assert_eq!(refused(&["plan", "--ops", &file, "--shape", shape]).await, said);
        }
    }
    let file = files.write("ops", b"join \xff\n");
    let said = refused(&["plan", "--ops", &file, "--shape", "ft", "--json"]).await;
    assert!(said.contains("line 1: ") && said.contains("is not an integer"), "{said}");

    let missing = files.path("missing");
    let said = refused(&["plan", "--ops", &missing, "--shape", "ft"]).await;
    let expected =
        format!("xylem: cannot read {missing}: No such file or directory (os error 2)\n");
    assert_eq!(said, expected);
    let said = refused(&["plan", "--ops", &missing, "--shape", "chain"]).await;
    assert_eq!(said, "xylem: --ops wants one shape, ft or twin\n");
    let full = (0..16_385).map(|id| format!("join {id}\n")).collect::<String>();
    let full = files.write("full", full);
    let said = refused(&["plan", "--ops", &full, "--shape", "twin"]).await;
    assert!(said.ends_with("line 16385: the tree is full\n"), "{said}");
}

#[tokio::test]
async fn estimates() {
    let question = ["plan", "--nodes", "1000", "--size", "758MB", "--rate", "1gbit"];
    let ask = async |more: &[&str]| stdout(&xylem(&[&question[..], more].concat()).await);
    let answer = ask(&["--json"]).await;
    let lines: Vec<Value> =
        answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shapes: Vec<_> = lines.iter().map(|line| line["shape"].as_str().unwrap()).collect();
    assert_eq!(shapes, ["twin", "ft", "chain", "registry"]);
    let ratio = |line: &Value| line["ratio"].as_f64().unwrap();
    assert!(ratio(&lines[0]) <= 1.03, "{}", lines[0]);
    assert!((2.0..2.01).contains(&ratio(&lines[1])), "{}", lines[1]);
    assert!((1.0..1.06).contains(&ratio(&lines[2])), "{}", lines[2]);
    assert_eq!(ratio(&lines[3]), 1000.0);
    for (line, copies) in lines.iter().zip([1_u32, 1, 1, 1000]) {
        assert_eq!(line["registry_bytes"], u64::from(copies) * 758_000_000);
        assert_eq!(line["registry_ratio"], f64::from(copies));
        assert_eq!((&line["nodes"], &line["limit_s"]), (&json!(1000), &json!(6.064)));
    }
    assert_eq!(lines[0]["depth"], 11);

    let answer = ask(&["--shape", "ft,twin"]).await;
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines[0], "758MB to 1000 nodes over links of 1gbit: over one link 6.064 s");
    assert!(lines[2].starts_with("SHAPE") && lines[3].starts_with("ft "), "{answer}");
    assert_eq!(lines.len(), 5);
}

#[tokio::test]
async fn nobody_is_asked() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let url = serve(Router::new().fallback(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        StatusCode::INTERNAL_SERVER_ERROR
    }));
    let url = url.await;
    let question = ["plan", "--nodes", "3", "--size", "1GiB", "--rate", "1gbit"];
    let output = xylem(&[&question[..], &["--control", &url, "--node-url", &url]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn bounds_and_misuse() {
    let size_rate = ["--size", "1GiB", "--rate", "1gbit"];
    for (nodes, said) in [("0", "0 is not in 1..=16384"), ("16385", "16385 is not in 1..=16384")] {
        let output = xylem(&[&["plan", "--nodes", nodes][..], &size_rate].concat()).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    for arguments in [
        &["plan"][..],
        &["plan", "--nodes", "10"],
        &["plan", "--nodes", "10", "--size", "758", "--rate", "1gbit"],
        &["plan", "--nodes", "10", "--size", "2000GiB", "--rate", "1gbit"],
        &["plan", "--nodes", "10", "--size", "1GiB", "--rate", "1gbps"],
        &["plan", "--nodes", "10", "--size", "1GiB", "--rate", "1gbit", "--shape", "star"],
        &["plan", "--ops", "x"],
        &["plan", "--ops", "x", "--shape", "ft", "--nodes", "3"],
        &["plan", "--ops", "x", "--shape", "ft", "--size", "1GiB"],
    ] {
        let output = xylem(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let most = xylem(&[&["plan", "--nodes", "16384", "--json"][..], &size_rate].concat()).await;
    assert_eq!(most.status.code(), Some(0));
    assert_eq!(stdout(&most).lines().count(), 4);
}
