//! The rules for every text file: how lines end, and that nothing in it belongs to one machine.

use super::{Finding, Text};

/// Paths and phrases that belong to one machine or one way of working, in pieces so that this
/// file has none.
const FOREIGN: [(&str, &str); 9] = [
    ("/wo", "rk/"),
    ("/ho", "me/"),
    ("/ro", "ot/"),
    ("../sha", "red"),
    ("CONTR", "ACT.md"),
    ("the iss", "ue's"),
    ("this sess", "ion"),
    ("the br", "ief"),
    ("sub", "agent"),
];

/// Checks one file.
pub(super) fn check(file: &Text, findings: &mut Vec<Finding>) {
    let foreign = FOREIGN.map(|(a, b)| format!("{a}{b}"));
    for (index, line) in file.text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(file.finding(index + 1, "line end", "remove the blanks at the end"));
        }
        for word in foreign.iter().filter(|word| line.contains(word.as_str())) {
            let remedy = format!("`{word}` means nothing to a reader elsewhere: say it without");
            findings.push(file.finding(index + 1, "foreign", remedy));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        let last = file.text.lines().count();
        findings.push(file.finding(last, "file end", "end the last line with a newline"));
    }
    if file.text.ends_with("\n\n") {
        let last = file.text.lines().count();
        findings.push(file.finding(last, "file end", "remove the empty lines at the end"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rules;

    #[test]
    fn lines_end_clean_and_files_with_one_newline() {
        assert!(rules(check, "a", "x\n").is_empty());
        assert!(rules(check, "a", "").is_empty());
        assert_eq!(rules(check, "a", "x \n"), ["line end"]);
        assert_eq!(rules(check, "a", "x\r\ny\n"), ["line end"]);
        assert_eq!(rules(check, "a", "x\ny"), ["file end"]);
        assert_eq!(rules(check, "a", "x\n\n"), ["file end"]);
    }

    #[test]
    fn what_belongs_to_one_machine_is_found() {
        for (a, b) in FOREIGN {
            assert_eq!(rules(check, "a", &format!("see {a}{b} there\n")), ["foreign"], "{a}{b}");
        }
        assert!(rules(check, "a", "a framework/of homes, rooted\n").is_empty());
    }
}
