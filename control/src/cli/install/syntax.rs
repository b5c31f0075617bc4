//! TOML of others, and in one line why it is none. What it means is not known here.

use toml::Table;

/// The first thing wrong with a text.
#[derive(Debug, thiserror::Error)]
#[error("no valid TOML in line {line}: {reason}")]
pub(in crate::cli) struct Syntax {
    line: usize,
    reason: String,
}

/// The text as a table.
pub(super) fn parse(text: &str) -> Result<Table, Syntax> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        Syntax { line, reason: error.message().replace(['\n', '\r'], " ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_named() {
        let error = parse("a = 1\nb = \n").unwrap_err().to_string();
        assert!(error.starts_with("no valid TOML in line 2: ") && !error.contains('\n'), "{error}");
        assert_eq!(parse("[a]\nb = 1\n").unwrap().len(), 1);
    }
}
