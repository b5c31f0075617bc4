//! Tests that each rule for Rust files finds what breaks it, and nothing else.

use super::*;
use crate::tidy::rules;

const HEAD: &str = "//! What this is for, what not.\n";

fn found(path: &str, code: &str) -> Vec<&'static str> {
    rules(check, path, &format!("{HEAD}{code}"))
}

#[test]
fn a_good_file_is_left_alone() {
    let code = "fn f(text: &'static str) -> char {\n    '{'\n}\n// unsafe is only a word here\n";
    assert!(found("control/src/a.rs", code).is_empty());
}

#[test]
fn a_file_opens_with_a_sentence() {
    for text in
        ["fn f() {}\n", "// no doc comment here\n", "//! Short.\n", "//! no full stop here\n"]
    {
        assert_eq!(rules(check, "a.rs", text), ["head"], "{text}");
    }
}

#[test]
fn lines_files_and_functions_have_a_measure() {
    assert_eq!(found("a.rs", &format!("// {}\n", "x".repeat(98))), ["columns"]);
    assert_eq!(found("a.rs", &format!("// {}\n", "ü".repeat(97))), Vec::<&str>::new());
    assert_eq!(found("a.rs", &"\n".repeat(500)), ["file length"]);
    let function =
        |lines: usize| format!("pub(crate) fn f() {{\n{}}}\n", "    a();\n".repeat(lines));
    assert_eq!(found("a.rs", &function(69)), ["function length"]);
    assert_eq!(found("a.rs", &function(68)), Vec::<&str>::new());
    let two = format!("fn g();\n{}", function(68));
    assert_eq!(found("a.rs", &two), Vec::<&str>::new());
}

#[test]
fn unsafe_stands_in_few_places() {
    let code = "fn f() {\n    unsafe { g() }\n}\n";
    assert_eq!(found("dataplane/src/driver.rs", code), ["unsafe"]);
    assert_eq!(found("xtask/src/lab.rs", code), ["unsafe"]);
    for place in ["dataplane/src/ring/ops.rs", "ebpf/src/main.rs", "benches/src/sys.rs"] {
        assert!(found(place, code).is_empty(), "{place}");
    }
    assert!(found("a.rs", "#![deny(unsafe_code)]\n").is_empty());
}

#[test]
fn what_is_banned_is_found_in_code_only() {
    for (banned, _) in BANNED {
        assert_eq!(found("a.rs", &format!("{banned}x\n")), ["banned"], "{banned}");
        assert!(found("a.rs", &format!("// {banned}x\n")).is_empty(), "{banned}");
        assert!(found("a.rs", &format!("\"{banned}x\"\n")).is_empty(), "{banned}");
    }
}

#[test]
fn left_over_work_is_found_in_comments() {
    for mark in LEFT_OVER {
        assert_eq!(found("a.rs", &format!("// {mark}: later\n")), ["left over"], "{mark}");
    }
}

#[test]
fn tests_do_not_sleep() {
    let code = "fn f() {\n    sleep(second);\n}\n";
    assert_eq!(found("dataplane/tests/hops.rs", code), ["sleep"]);
    assert!(found("dataplane/src/hops.rs", code).is_empty());
}

#[test]
fn arrows_point_down() {
    for code in ["use std::time::Instant;\n", "use crate::ring::Ring;\n", "io_uring::opcode();\n"] {
        assert_eq!(found("dataplane/src/relay/pool.rs", code), ["floors"], "{code}");
        assert_eq!(found("control/src/tree/ft.rs", code), ["floors"], "{code}");
        assert!(found("dataplane/src/driver.rs", code).is_empty(), "{code}");
    }
    for code in ["use crate::relay::Pool;\n", "use crate::ring::Slot;\n"] {
        assert!(found("dataplane/src/relay/pool.rs", code).is_empty(), "{code}");
    }
    assert_eq!(found("dataplane/src/store.rs", "use crate::driver::Driver;\n"), ["floors"]);
    assert!(found("dataplane/src/relays.rs", "use std::fs;\n").is_empty());
}
