//! What changes in a file, as a unified diff. Shows; changes nothing.

use similar::TextDiff;

use super::files::Edit;

/// The difference as `diff -u` writes it; empty where there is none.
pub(super) fn unified(edit: &Edit) -> String {
    let name = |text: &Option<String>| match text {
        Some(_) => edit.path.display().to_string(),
        None => "/dev/null".to_owned(),
    };
    let before = edit.before.as_deref().unwrap_or_default();
    let after = edit.after.as_deref().unwrap_or_default();
    TextDiff::from_lines(before, after)
        .unified_diff()
        .header(&name(&edit.before), &name(&edit.after))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: Option<&str>, after: Option<&str>) -> String {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let edit =
            Edit { path: "f".into(), before: text(before), after: text(after), directories: 0 };
        unified(&edit)
    }

    #[test]
    fn as_diff_writes_it() {
        assert_eq!(diff(Some("a\n"), Some("a\n")), "");
        assert_eq!(diff(None, Some("a\nb\n")), "--- /dev/null\n+++ f\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(diff(Some("a\n"), None), "--- f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n");
        let open = diff(Some("a"), Some("a\nb"));
        assert!(open.contains("\\ No newline at end of file"), "{open}");
    }
}
