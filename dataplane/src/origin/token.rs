//! Anonymous bearer tokens: the challenge in a 401, the token service's answer. No credentials are
//! ever sent.

use std::time::{Duration, Instant};

use xylem_protocol::challenge::TokenAnswer;

/// A token that says it ends sooner is used for this long all the same: each one costs a question.
const LIFE_MIN: Duration = Duration::from_secs(10);

/// A token.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    expires: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Token {
    /// From the service's answer; `None` if there is no token in it that could stand in a header
    /// line.
    pub(super) fn new(answer: TokenAnswer) -> Option<Self> {
        let (text, life) = answer.into_token()?;
        let life = life.max(LIFE_MIN);
        // A part of the life is kept in reserve.
        Some(Self { text, expires: Instant::now() + life - life / 5 })
    }

    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let answer = |json: &str| Token::new(serde_json::from_str(json).unwrap());
        assert_eq!(answer(r#"{"access_token":"t"}"#).unwrap().text, "t");
        assert!(answer(r#"{"token":"t","expires_in":300}"#).unwrap().is_fresh());
        assert!(answer(r#"{"token":"a\r\nb"}"#).is_none());
        assert!(answer("{}").is_none());
    }
}
