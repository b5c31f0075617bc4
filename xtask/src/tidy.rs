//! `cargo xtask tidy`: the house rules as a test; says where, which rule, and what to do.

mod code;
mod rust;
mod text;
mod workspace;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run;

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    remedy: String,
}

/// A file of the repository: its path from the top, and its text.
#[derive(Clone, Debug)]
struct Text {
    path: String,
    text: String,
}

impl Text {
    fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    fn is_page(&self) -> bool {
        self.has_extension("md")
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|its| its == extension)
    }

    fn finding(&self, line: usize, rule: &'static str, remedy: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, rule, remedy: remedy.into() }
    }
}

/// Checks every file that is, or could be, committed.
pub(crate) fn run() -> Result<()> {
    let files = files()?;
    let findings = check(&files);
    for Finding { file, line, rule, remedy } in &findings {
        println!("{file}:{line}: {rule}: {remedy}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files keep the rules", files.len());
            Ok(())
        }
        count => bail!("tidy: {count} places break the rules"),
    }
}

fn check(files: &[Text]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        text::check(file, &mut findings);
        if file.is_rust() {
            rust::check(file, &mut findings);
        }
    }
    workspace::check(files, &mut findings);
    findings
}

/// All text files that git knows or would add.
fn files() -> Result<Vec<Text>> {
    let top = run::repository();
    let mut git = run::command("git");
    git.current_dir(&top).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = run::output(&mut git).context("tidy asks git for the files")?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // A file that was deleted but not yet committed is listed still.
        let Ok(bytes) = fs::read(top.join(path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(Text { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
fn rules(check: impl Fn(&Text, &mut Vec<Finding>), path: &str, text: &str) -> Vec<&'static str> {
    let mut findings = Vec::new();
    check(&Text { path: path.to_owned(), text: text.to_owned() }, &mut findings);
    findings.into_iter().map(|finding| finding.rule).collect()
}
