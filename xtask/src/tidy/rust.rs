//! The rules for one Rust file: its head, its measures, what it may not contain, whom it may use.

use super::code::{has_word, only};
use super::{Finding, Text};

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Where `unsafe` may stand.
const UNSAFE: [&str; 4] =
    ["dataplane/src/ring/", "ebpf/src/", "xtask/src/sys.rs", "benches/src/sys"];

/// What may stand nowhere in code, and what to write instead.
const BANNED: [(&str, &str); 6] = [
    ("todo!", "write it"),
    ("unimplemented!", "write it, or return an error"),
    ("dbg!", "use tracing, or remove it"),
    ("#[ignore", "make the test fit to run, or remove it"),
    ("#[allow(", "write #[expect(…, reason = \"…\")]"),
    ("#![allow(", "write #[expect(…, reason = \"…\")] where it is needed"),
];

/// Marks of work left over, in pieces so that this file has none.
const LEFT_OVER: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// A part of the tree, what it may not touch, and which modules of its crate it may use.
struct Floor {
    part: &'static str,
    never: &'static [&'static str],
    /// Where it is pure: the only things of the own crate it may name.
    only: Option<&'static [&'static str]>,
}

const PURE: &[&str] =
    &["std::net", "std::fs", "std::time", "std::thread", "io_uring", "libc", "tokio", "tracing"];

const FLOORS: [Floor; 10] = [
    Floor { part: "dataplane/src/relay", never: PURE, only: Some(&["relay", "ring::Slot"]) },
    Floor { part: "control/src/tree", never: PURE, only: Some(&["tree", "limits"]) },
    Floor { part: "control/src/forest", never: PURE, only: Some(ARRANGING) },
    Floor { part: "control/src/placement", never: PURE, only: Some(ARRANGING) },
    Floor { part: "dataplane/protocol/src", never: &["std::net::Tcp", "std::fs"], only: None },
    Floor { part: "dataplane/src/ring", never: ABOVE_RING, only: None },
    Floor { part: "dataplane/src/store", never: ABOVE_RING, only: None },
    Floor { part: "dataplane/src/hops", never: ABOVE_RING, only: None },
    Floor { part: "dataplane/src/origin", never: ABOVE_RING, only: None },
    Floor { part: "dataplane/src/access", never: ABOVE_RING, only: None },
];

const ARRANGING: &[&str] = &["forest", "placement", "tree", "limits"];
const ABOVE_RING: &[&str] = &["crate::driver", "crate::agent"];

/// Checks one file.
pub(super) fn check(file: &Text, findings: &mut Vec<Finding>) {
    let code = only(&file.text);
    head(file, findings);
    measures(file, findings);
    functions(file, &code, findings);
    contents(file, &code, findings);
    floors(file, &code, findings);
}

fn head(file: &Text, findings: &mut Vec<Finding>) {
    let opening: Vec<&str> =
        file.text.lines().take_while(|line| line.starts_with("//! ")).collect();
    let sentence = opening.join(" ").split_whitespace().count() > 3;
    let ends = opening.iter().any(|line| line.ends_with(['.', ':']));
    if !(sentence && ends) {
        let remedy = "open the file with one `//!` sentence: what it is for, what it is not";
        findings.push(file.finding(1, "head", remedy));
    }
}

fn measures(file: &Text, findings: &mut Vec<Finding>) {
    let mut lines = 0;
    for (index, line) in file.text.lines().enumerate() {
        lines = index + 1;
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            let remedy = format!("{columns} columns: break the line before {COLUMNS_MAX}");
            findings.push(file.finding(lines, "columns", remedy));
        }
    }
    if lines > FILE_LINES_MAX {
        let remedy = format!("{lines} lines: split what does not belong together");
        findings.push(file.finding(FILE_LINES_MAX, "file length", remedy));
    }
}

fn functions(file: &Text, code: &str, findings: &mut Vec<Finding>) {
    let lines: Vec<&str> = code.lines().collect();
    for start in 0..lines.len() {
        if !begins_function(lines[start]) {
            continue;
        }
        let length = function_length(&lines[start..]);
        if length > FUNCTION_LINES_MAX {
            let remedy = format!("{length} lines: split it below {FUNCTION_LINES_MAX}");
            findings.push(file.finding(start + 1, "function length", remedy));
        }
    }
}

fn begins_function(line: &str) -> bool {
    let Some((before, _)) = line.split_once("fn ") else { return false };
    before.split_whitespace().all(|word| {
        matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub(")
    })
}

/// Lines from the head of a function to its closing brace; those of a declaration to its `;`.
fn function_length(lines: &[&str]) -> usize {
    let mut depth = 0_u32;
    for (index, line) in lines.iter().enumerate() {
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => return index + 1,
                '}' => depth -= 1,
                ';' if depth == 0 && !line.contains('[') => return index + 1,
                _ => {}
            }
        }
    }
    lines.len()
}

fn contents(file: &Text, code: &str, findings: &mut Vec<Finding>) {
    let may_be_unsafe = UNSAFE.iter().any(|place| file.path.starts_with(place));
    let is_test = file.path.contains("tests/");
    for (index, (line, raw)) in code.lines().zip(file.text.lines()).enumerate() {
        let number = index + 1;
        for (banned, remedy) in BANNED {
            if line.contains(banned) {
                findings.push(file.finding(number, "banned", format!("`{banned}`: {remedy}")));
            }
        }
        if !may_be_unsafe && has_word(line, "unsafe") {
            let remedy = format!("move it to where `unsafe` may stand: {}", UNSAFE.join(", "));
            findings.push(file.finding(number, "unsafe", remedy));
        }
        if is_test && line.contains("sleep(") {
            findings.push(file.finding(number, "sleep", "wait for the event, with a bound"));
        }
        if LEFT_OVER.iter().any(|mark| has_word(raw, mark)) {
            findings.push(file.finding(number, "left over", "do it, or say nothing"));
        }
    }
}

fn floors(file: &Text, code: &str, findings: &mut Vec<Finding>) {
    let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
    let inside = |part: &str| stem == part || stem.starts_with(&format!("{part}/"));
    for floor in FLOORS.iter().filter(|floor| inside(floor.part)) {
        let part = floor.part;
        for (index, line) in code.lines().enumerate() {
            if let Some(never) = floor.never.iter().find(|never| has_word(line, never)) {
                let remedy = format!("{part} may not use {never}: arrows point down");
                findings.push(file.finding(index + 1, "floors", remedy));
            }
            let Some(allowed) = floor.only else { continue };
            let may = |path: &str| {
                let below = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
                allowed.iter().any(|it| path.strip_prefix(it).is_some_and(below))
            };
            for path in line.split("crate::").skip(1).filter(|path| !may(path)) {
                let end = path.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
                let path = &path[..end.unwrap_or(path.len())];
                let remedy = format!("{part} is pure and may not use crate::{path}");
                findings.push(file.finding(index + 1, "floors", remedy));
            }
        }
    }
}

#[cfg(test)]
mod tests;
