//! Anonymous bearer tokens: the challenge in a 401, the token service's answer. No credentials are
//! ever sent.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// The token service's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

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
        let text = answer.token.or(answer.access_token)?;
        // Default of the token specification; a part of the life is kept in reserve.
        let life = answer.expires_in.unwrap_or(60).clamp(10, 86_400);
        let printable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        printable
            .then(|| Self { text, expires: Instant::now() + Duration::from_secs(life - life / 5) })
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
