//! What a registry asks for when it answers 401: a token of a service (distribution's token
//! specification, RFC 6750); and what the service answers.

use std::time::Duration;

use serde::Deserialize;

use crate::limits::TOKEN_LIFE_MAX_S;

/// Life of a token that names none (token specification), seconds.
const TOKEN_LIFE_S: u64 = 60;

/// A token service's answer.
#[derive(Deserialize)]
pub struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Without the token.
impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl TokenAnswer {
    /// The token and its life; `None` if there is none in it that could stand in a header line.
    pub fn into_token(self) -> Option<(String, Duration)> {
        let token = self.token.or(self.access_token)?;
        let life_s = self.expires_in.unwrap_or(TOKEN_LIFE_S).min(TOKEN_LIFE_MAX_S);
        let printable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        printable.then_some((token, Duration::from_secs(life_s)))
    }
}

/// A `WWW-Authenticate` line that asks for a bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Address of the token service.
    pub realm: String,
    /// What the service knows the registry as.
    pub service: Option<String>,
    /// What the token is to be good for.
    pub scope: Option<String>,
}

impl Challenge {
    /// Reads `Bearer realm="…",service="…",scope="…"`; `None` for other schemes, and without a
    /// realm.
    pub fn parse(header: &str) -> Option<Self> {
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
}
