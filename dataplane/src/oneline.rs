//! Errors as people read them: what happened and why, in one line.

use std::error::Error;

/// An error and its causes in one line. Some libraries repeat their cause in their own message; of
/// a cause with several lines the first counts.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string().replace(['\n', '\r'], " ");
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        if !line.contains(text) {
            line.push_str(": ");
            line.push_str(text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot do it: {0}")]
    struct Repeats(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no luck")]
    struct Outer(#[source] Repeats);

    #[test]
    fn causes_come_once_and_without_their_log() {
        let cause = std::io::Error::other("the disk is full\nand so is the log");
        assert_eq!(chain(&Outer(Repeats(cause))), "no luck: cannot do it: the disk is full");
    }
}
