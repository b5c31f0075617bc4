//! Rust source without what is not code: strings and comments become blanks, lines stay lines.

/// Blanks comments, strings and characters. Positions by line and column stay as they are.
pub(super) fn only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = not_code(&chars[at..], at.checked_sub(1).map(|before| chars[before]));
        for &c in &chars[at..at + length] {
            out.push(if c == '\n' { '\n' } else { ' ' });
        }
        at += length;
        if length == 0 {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// How many characters from here on are no code.
fn not_code(rest: &[char], before: Option<char>) -> usize {
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted(rest, 1),
        ['r', '"' | '#', ..] if !before.is_some_and(is_word) || before == Some('b') => raw(rest),
        ['\'', '\\', ..] => {
            2 + rest[3.min(rest.len())..].iter().position(|c| *c == '\'').map_or(0, |it| it + 2)
        }
        // A lifetime has no second quote after one character.
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at + 1 < rest.len() {
        match rest[at..at + 2] {
            ['/', '*'] => (at, depth) = (at + 2, depth + 1),
            ['*', '/'] if depth == 1 => return at + 2,
            ['*', '/'] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted(rest: &[char], start: usize) -> usize {
    let mut at = start;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `r#"…"#`; zero for a raw identifier.
fn raw(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let body = 2 + hashes;
    let ends = |at: &usize| {
        let end = &rest[*at..];
        end[0] == '"' && end.len() > hashes && end[1..=hashes].iter().all(|c| *c == '#')
    };
    (body..rest.len()).find(ends).map_or(rest.len(), |at| at + 1 + hashes)
}

/// Whether `word` stands in `code` by itself, not within a longer word.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("a\"b{", x)"#, "f(       , x)"),
            ("r#\"a\"b\"# c", "         c"),
            ("br\"a\" c", "b     c"),
            ("'{' x", "    x"),
            (r"'\'' x", "     x"),
            (r"'\u{1f}' x", "         x"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("r#type = for\"\"", "r#type = for  "),
        ];
        for (text, expected) in cases {
            assert_eq!(only(text), expected, "{text}");
        }
    }

    #[test]
    fn a_word_within_a_word_is_none() {
        assert!(has_word("unsafe {", "unsafe") && has_word("(unsafe)", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe") && !has_word("is_unsafe", "unsafe"));
    }
}
