//! The rules for every text file: how lines end, how long those of a page are, and that nothing in
//! it belongs to one machine.

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

/// Longest line of a page, characters: two of them fit side by side on a screen.
const PAGE_COLUMNS_MAX: usize = 120;

/// Checks one file.
pub(super) fn check(file: &Text, findings: &mut Vec<Finding>) {
    columns(file, findings);
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

/// Rows of tables and pictures cannot be broken.
fn columns(file: &Text, findings: &mut Vec<Finding>) {
    if !file.is_page() {
        return;
    }
    for (index, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        let whole = line.starts_with('|') || line.starts_with("![");
        if columns > PAGE_COLUMNS_MAX && !whole {
            let remedy = format!("{columns} columns: break the line before {PAGE_COLUMNS_MAX}");
            findings.push(file.finding(index + 1, "columns", remedy));
        }
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
    fn lines_of_a_page_fit() {
        let long = "x ".repeat(60) + "x\n";
        assert_eq!(rules(check, "a.md", &long), ["columns"]);
        assert!(rules(check, "a.md", &long[2..]).is_empty());
        assert!(rules(check, "a.md", &format!("| {long}![{long}")).is_empty());
        assert!(rules(check, "a.txt", &long).is_empty());
    }

    #[test]
    fn what_belongs_to_one_machine_is_found() {
        for (a, b) in FOREIGN {
            assert_eq!(rules(check, "a", &format!("see {a}{b} there\n")), ["foreign"], "{a}{b}");
        }
        assert!(rules(check, "a", "a framework/of homes, rooted\n").is_empty());
    }
}
