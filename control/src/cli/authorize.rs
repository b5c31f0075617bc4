//! With what a registry is asked through a node: its challenge comes through the node as it is, and
//! a token service is asked directly, as the container runtimes do.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use xylem_protocol::challenge::{Challenge, TokenAnswer};
use xylem_protocol::limits::SMALL_ANSWER_MAX;
use xylem_protocol::names::Reference;

use super::client::{Client, ClientError, Peer};
use super::login::{Credentials, Found};
use crate::limits::TOKEN_LIFE_MIN_S;

/// Why nothing is to be had with these credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorizeError {
    #[error(
        "{registry} wants credentials for {name}; give --creds - or --authfile FILE, or log in \
             with podman login {registry}"
    )]
    Missing { registry: String, name: String },
    #[error("{registry} wants credentials for {name}, and {} leaves them to \
             docker-credential-{program}, which xylem does not ask; give --creds -",
             path.display())]
    Helper { registry: String, name: String, path: PathBuf, program: String },
    #[error("{registry} asks for {asked}; only Basic and Bearer are known here")]
    Scheme { registry: String, asked: String },
    #[error("cannot ask the token service {realm}")]
    Unreachable { realm: String, source: reqwest::Error },
    #[error("the token service {realm} does not take these credentials ({status})")]
    Refused { realm: String, status: StatusCode },
    #[error("the token service {realm} gave no token")]
    NoToken { realm: String },
}

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Basic,
    Bearer(Challenge),
    Other(String),
}

/// What to send, and for how long it is good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authorization {
    pub(super) header: String,
    /// When it is time for another one; never for a password.
    pub(super) renew_after: Option<Duration>,
}

/// An image behind a node, and who wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Door<'a> {
    pub(super) client: &'a Client,
    pub(super) node: &'a Peer,
    pub(super) image: &'a Reference,
}

impl Door<'_> {
    /// What to send with a pull; `None` where the registry wants nothing.
    ///
    /// # Errors
    /// The node or a token service does not answer, or not with a yes.
    pub(super) async fn open(
        self,
        credentials: &Credentials,
    ) -> Result<Option<Authorization>, super::CliError> {
        let Some(challenge) = self.challenge(None).await? else { return Ok(None) };
        let basic = credentials.basic();
        Ok(Some(match challenge {
            Asked::Basic => Authorization { header: basic, renew_after: None },
            Asked::Bearer(Challenge { realm, service, scope }) => {
                let pull = || format!("repository:{}:pull", self.image.repository);
                let scope = scope.unwrap_or_else(pull);
                self.token(&realm, service.as_deref(), &scope, &basic).await?
            }
            Asked::Other(asked) => {
                let registry = self.image.registry.clone();
                return Err(AuthorizeError::Scheme { registry, asked }.into());
            }
        }))
    }

    /// Another token in place of one that ends, made known to the node, which goes on with it.
    pub(super) async fn renew(
        self,
        credentials: &Credentials,
    ) -> Result<Option<Authorization>, super::CliError> {
        let renewed = self.open(credentials).await?;
        if let Some(renewed) = &renewed {
            self.challenge(Some(&renewed.header)).await?;
        }
        Ok(renewed)
    }

    /// Why a pull without credentials has failed, if it was for want of them.
    pub(super) async fn want(self, found: Found) -> Option<AuthorizeError> {
        // What the node has said tells enough where it says nothing more.
        self.challenge(None).await.ok()??;
        let Reference { registry, repository, .. } = self.image;
        let (registry, name) = (registry.clone(), repository.clone());
        Some(match found {
            Found::Helper { path, program } => {
                AuthorizeError::Helper { registry, name, path, program }
            }
            Found::Credentials(_) | Found::Nothing => AuthorizeError::Missing { registry, name },
        })
    }

    /// What the registry asks for where it is asked for the image with this; `None`: for nothing
    /// more.
    async fn challenge(self, header: Option<&str>) -> Result<Option<Asked>, ClientError> {
        let Reference { registry, repository, target } = self.image;
        let path = format!("/v2/{repository}/manifests/{target}?ns={registry}");
        let answer = self.client.head(self.node, &path, header).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let asked = answer.headers().get_all("www-authenticate").iter();
        let asked = asked.filter_map(|line| line.to_str().ok()).map(parse);
        let rank = |challenge: &Asked| match challenge {
            Asked::Bearer(_) => 0,
            Asked::Basic => 1,
            Asked::Other(_) => 2,
        };
        Ok(asked.min_by_key(rank).or(Some(Asked::Other("nothing by name".to_owned()))))
    }

    async fn token(
        self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        basic: &str,
    ) -> Result<Authorization, AuthorizeError> {
        let none = || AuthorizeError::NoToken { realm: realm.to_owned() };
        let unreachable = |source| AuthorizeError::Unreachable { realm: realm.to_owned(), source };
        let mut url = reqwest::Url::parse(realm).map_err(|_| none())?;
        let named = service.map(|service| ("service", service));
        url.query_pairs_mut().extend_pairs(named.into_iter().chain([("scope", scope)]));
        let answer = self.client.elsewhere(url, basic).await.map_err(unreachable)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(AuthorizeError::Refused { realm: realm.to_owned(), status });
        }
        given(answer).await.and_then(authorization).ok_or_else(none)
    }
}

/// What a token service says, if that is a token and not endless.
async fn given(mut answer: reqwest::Response) -> Option<TokenAnswer> {
    let mut whole = Vec::new();
    while let Some(part) = answer.chunk().await.ok()? {
        whole.extend_from_slice(&part);
        if whole.len() > SMALL_ANSWER_MAX {
            return None;
        }
    }
    serde_json::from_slice(&whole).ok()
}

fn authorization(answer: TokenAnswer) -> Option<Authorization> {
    let (token, life) = answer.into_token()?;
    let life = life.max(Duration::from_secs(TOKEN_LIFE_MIN_S));
    // A third of its life is for the way, and for clocks that differ.
    Some(Authorization { header: format!("Bearer {token}"), renew_after: Some(life * 2 / 3) })
}

/// Reads one `WWW-Authenticate` line.
fn parse(line: &str) -> Asked {
    let scheme = line.split_whitespace().next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("basic") {
        return Asked::Basic;
    }
    let other = || Asked::Other(scheme.chars().take(32).collect());
    Challenge::parse(line).map_or_else(other, Asked::Bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        assert_eq!(parse("basic realm=\"x\""), Asked::Basic);
        let line = r#"Bearer realm="https://a/t?x=1,2",service="r",scope="repository:a/b:pull""#;
        let (realm, service) = ("https://a/t?x=1,2".to_owned(), Some("r".to_owned()));
        let scope = Some("repository:a/b:pull".to_owned());
        assert_eq!(parse(line), Asked::Bearer(Challenge { realm, service, scope }));
        for other in ["", "Bearer", "Digest realm=\"x\""] {
            assert!(matches!(parse(other), Asked::Other(_)), "{other}");
        }
    }

    #[tokio::test]
    async fn a_token_service_is_not_listened_to_for_ever() {
        let of = async |name: usize| {
            let text = format!(r#"{{"{}": 1, "token": "t"}}"#, "x".repeat(name));
            given(axum::http::Response::new(text).into()).await
        };
        assert!(of(100).await.is_some());
        assert!(of(SMALL_ANSWER_MAX).await.is_none());
    }

    #[test]
    fn tokens() {
        let of = |json| authorization(serde_json::from_str(json).unwrap());
        let token = of(r#"{"access_token": "t", "expires_in": 300}"#).unwrap();
        assert_eq!(token.header, "Bearer t");
        assert_eq!(token.renew_after, Some(Duration::from_secs(200)));
        assert_eq!(of(r#"{"token": "t"}"#).unwrap().renew_after, Some(Duration::from_secs(40)));
        assert_eq!(of(r#"{"token": "a\nb"}"#), None);
        assert_eq!(of("{}"), None);
        // A life as long as a number goes was an overflow.
        let day = of(r#"{"token": "t", "expires_in": 18446744073709551615}"#).unwrap();
        assert_eq!(day.renew_after, Some(Duration::from_secs(57_600)));
    }
}
