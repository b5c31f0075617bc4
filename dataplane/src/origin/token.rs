//! Anonymous bearer tokens: the challenge in a 401, the token service's answer. No credentials are
//! ever sent.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// What a `WWW-Authenticate` line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

impl Challenge {
    /// Reads `Bearer realm="…",service="…",scope="…"`; `None` for other schemes.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        while let Some((key, after)) = rest.split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = next.trim_start_matches([',', ' ']);
        }
        Some(Self { realm: realm?, service, scope })
    }
}

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
    fn challenges() {
        let header = r#"Bearer realm="https://a/t?x=1,2",service="r.example","#;
        let header = format!(r#"{header}scope="repository:a/b:pull,push""#);
        let challenge = Challenge::parse(&header).unwrap();
        assert_eq!(challenge.realm, "https://a/t?x=1,2");
        assert_eq!(challenge.service.as_deref(), Some("r.example"));
        assert_eq!(challenge.scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(Challenge::parse("bearer realm=x, error=y").unwrap().realm, "x");
        for other in ["", "Bearer", "Basic realm=\"x\"", "Bearer service=\"x\"", "Bearer realm=\"x"]
        {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
    }

    #[test]
    fn tokens() {
        let answer = |json: &str| Token::new(serde_json::from_str(json).unwrap());
        assert_eq!(answer(r#"{"access_token":"t"}"#).unwrap().text, "t");
        assert!(answer(r#"{"token":"t","expires_in":300}"#).unwrap().is_fresh());
        assert!(answer(r#"{"token":"a\r\nb"}"#).is_none());
        assert!(answer("{}").is_none());
    }
}
