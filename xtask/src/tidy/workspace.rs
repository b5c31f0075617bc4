//! The rules for the whole: versions in one place, arrows between crates, links that end well.

use std::collections::HashSet;

use super::{Finding, Text};

/// A crate's directory and those of our crates that it may use: those below it.
const CRATES: [(&str, &[&str]); 7] = [
    ("dataplane/protocol", &[]),
    ("ebpf", &[]),
    ("dataplane", &["xylem-protocol", "xylem-ebpf"]),
    ("control", &["xylem-protocol"]),
    ("xtask", &[]),
    ("benches", &["xylem-protocol", "xylem-dataplane", "xylem-control", "xylem-ebpf"]),
    ("benches/guard", &[]),
];

/// Checks what no single file can tell.
pub(super) fn check(files: &[Text], findings: &mut Vec<Finding>) {
    if !files.iter().any(|file| file.path == "Cargo.lock") {
        let missing = Text { path: "Cargo.lock".into(), text: String::new() };
        findings.push(missing.finding(1, "lock", "commit Cargo.lock"));
    }
    for file in files {
        if let Some(directory) = file.path.strip_suffix("/Cargo.toml") {
            manifest(file, directory, findings);
        }
        if file.path.ends_with(".md") {
            links(file, files, findings);
        }
    }
}

/// Every dependency of a member takes its version from the workspace, and points down.
fn manifest(file: &Text, directory: &str, findings: &mut Vec<Finding>) {
    if file.text.lines().any(|line| line.trim() == "[workspace]") {
        // A workspace of its own, for another target, has its own table.
        return;
    }
    let below = CRATES.iter().find(|(name, _)| *name == directory).map(|(_, below)| *below);
    let mut in_dependencies = false;
    for (index, line) in file.text.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        if !in_dependencies || line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let inherits = line.contains(".workspace = true") || line.contains("workspace = true,");
        if !inherits && !line.contains("{ workspace = true }") {
            let remedy = format!("write {name}.workspace = true; the version belongs to the root");
            findings.push(file.finding(index + 1, "versions", remedy));
        }
        let may = below.is_none_or(|below| below.contains(&name));
        if name.starts_with("xylem-") && !may {
            let remedy = format!("{directory} may not use {name}: arrows point down");
            findings.push(file.finding(index + 1, "floors", remedy));
        }
    }
}

/// Relative links of a page lead to a file that is there, and to a heading in it.
fn links(file: &Text, files: &[Text], findings: &mut Vec<Finding>) {
    let mut in_code = false;
    for (index, line) in file.text.lines().enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if let Some(remedy) = broken(file, files, target) {
                findings.push(file.finding(index + 1, "links", remedy));
            }
        }
    }
}

fn broken(from: &Text, files: &[Text], target: &str) -> Option<String> {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { from.path.clone() } else { resolve(&from.path, path) };
    let directory = format!("{}/", path.trim_end_matches('/'));
    let page = files.iter().find(|file| file.path == path);
    let Some(page) = page else {
        let exists = files.iter().any(|file| file.path.starts_with(&directory));
        return (!exists).then(|| format!("`{target}`: there is no {path}"));
    };
    let lost = !heading.is_empty() && !headings(&page.text).contains(heading);
    lost.then(|| format!("`{target}`: {path} has no such heading"))
}

fn resolve(from: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The headings of a page as a link names them.
fn headings(text: &str) -> HashSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<&'static str> {
        let lock = ("Cargo.lock", "");
        let text =
            |(path, text): &(&str, &str)| Text { path: (*path).into(), text: (*text).into() };
        let files: Vec<Text> = files.iter().chain([&lock]).map(text).collect();
        let mut findings = Vec::new();
        check(&files, &mut findings);
        findings.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_workspace_without_lock_is_found() {
        let mut findings = Vec::new();
        check(&[], &mut findings);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].rule, "lock");
    }

    #[test]
    fn versions_belong_to_the_root() {
        let good = "[package]\nversion = \"1\"\n[dependencies]\nclap.workspace = true\n\
                    serde = { workspace = true, features = [\"derive\"] }\n";
        assert!(found(&[("xtask/Cargo.toml", good)]).is_empty());
        for bad in ["clap = \"4\"", "clap = { version = \"4\" }"] {
            let bad = format!("[dev-dependencies]\n{bad}\n");
            assert_eq!(found(&[("xtask/Cargo.toml", &bad)]), ["versions"]);
            assert!(found(&[("x/Cargo.toml", &format!("[workspace]\n{bad}"))]).is_empty());
        }
    }

    #[test]
    fn crates_use_those_below_them() {
        let uses = |name: &str| format!("[dependencies]\n{name}.workspace = true\n");
        assert!(found(&[("dataplane/Cargo.toml", &uses("xylem-protocol"))]).is_empty());
        assert_eq!(found(&[("dataplane/Cargo.toml", &uses("xylem-control"))]), ["floors"]);
        assert_eq!(found(&[("xtask/Cargo.toml", &uses("xylem-dataplane"))]), ["floors"]);
    }

    #[test]
    fn links_lead_somewhere() {
        let page = |link: &str| {
            found(&[("docs/a.md", &format!("[x]({link})\n")), ("docs/b.md", "# B c!\n")])
        };
        for good in ["b.md", "./b.md", "../docs/b.md", "b.md#b-c", "https://x.org", "../docs"] {
            assert!(page(good).is_empty(), "{good}");
        }
        for bad in ["c.md", "b.md#d", "#nowhere", "../b.md"] {
            assert_eq!(page(bad), ["links"], "{bad}");
        }
    }
}
