//! Tokens for clients that cannot say which registry they mean when they ask how to authenticate:
//! podman, skopeo and buildah ping `/v2/` without a name, and take from the answer how to ask for
//! every image. Where several registries are behind the node, the answer sends them here, with a
//! scope that begins with the registry. Their credentials go on to that registry's token service,
//! its token comes back, and nothing is kept.

use xylem_protocol::http::Request;
use xylem_protocol::names::check_repository;

use super::Agent;
use super::flows::Refusal;
use crate::origin::{Credentials, OriginError, Relayed};

/// Where a client is sent.
pub(super) const TOKEN_PATH: &str = "/xylem/v1/token";

/// Begins a token that stands for what a client sent for a registry that takes no tokens.
const BASIC: &str = "xylem-basic.";
/// The token for a registry that wants nothing.
const NOTHING: &str = "xylem-nothing";

/// What a client's `Authorization` says to its registry: these tokens stand for something else.
pub(super) fn meant(authorization: &str) -> Option<String> {
    let token = authorization.strip_prefix("Bearer ").map(str::trim);
    match token {
        Some(NOTHING) => None,
        Some(token) => Some(match token.strip_prefix(BASIC) {
            Some(basic) => format!("Basic {basic}"),
            None => authorization.to_owned(),
        }),
        None => Some(authorization.to_owned()),
    }
}

/// The challenge of a node with several registries.
pub(super) fn challenge(request: &Request) -> Option<String> {
    let host = request.host.as_deref()?;
    Some(format!("Bearer realm=\"http://{host}{TOKEN_PATH}\",service=\"xylem\""))
}

fn handed_out(token: &str) -> Relayed {
    Relayed {
        status: 200,
        content_type: Some("application/json".to_owned()),
        challenges: Vec::new(),
        link: None,
        filters: None,
        body: serde_json::json!({ "token": token }).to_string().into(),
    }
}

/// The one repository that a scope names (`repository:NAME:pull`).
fn repository_of(request: &Request) -> Option<String> {
    let scope = request.parameter("scope")?;
    let name = scope.strip_prefix("repository:")?.rsplit_once(':')?.0;
    check_repository(name).is_ok().then(|| name.to_owned())
}

impl Agent {
    /// A token for the registry that the scope begins with, from who gives them there.
    pub(super) async fn token(&self, request: &Request) -> Result<Relayed, Refusal> {
        // Without a scope nothing is asked for: a log-in, which the registry sees when it is used.
        let Some(name) = repository_of(request) else { return Ok(handed_out(NOTHING)) };
        let repository = self.find_repository(None, &name)?;
        let Some(registry) = repository.origin().registry() else {
            return Ok(handed_out(NOTHING));
        };
        let refused = |error: OriginError| Refusal::origin(&error);
        let ping = registry.relay("", "", "", &Credentials::Client(None)).await.map_err(refused)?;
        let Some(challenge) = ping.challenges.first().filter(|_| ping.status == 401) else {
            return Ok(handed_out(NOTHING));
        };
        let given = request.authorization.as_deref();
        let is_basic = challenge.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("basic "));
        match given.and_then(|given| given.strip_prefix("Basic ")) {
            Some(basic) if is_basic => Ok(handed_out(&format!("{BASIC}{}", basic.trim()))),
            None if is_basic => Ok(handed_out(NOTHING)),
            _ => registry.token_of(repository.name(), challenge, given).await.map_err(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_stand_for_something() {
        assert_eq!(meant("Bearer xylem-nothing"), None);
        assert_eq!(meant("Bearer xylem-basic.dTpw").as_deref(), Some("Basic dTpw"));
        assert_eq!(meant("Bearer abc").as_deref(), Some("Bearer abc"));
        assert_eq!(meant("Basic dTpw").as_deref(), Some("Basic dTpw"));
    }

    #[test]
    fn scopes() {
        let of = |query| {
            let head = format!("GET /token?{query} HTTP/1.1\r\nHost: n\r\n\r\n");
            repository_of(&Request::parse(head.as_bytes()).unwrap().unwrap().0)
        };
        let scope = "account=u&scope=repository%3Ar.example__5000%2Fa%2Fb%3Apull&service=xylem";
        assert_eq!(of(scope).as_deref(), Some("r.example__5000/a/b"));
        for none in ["", "scope=", "scope=registry:catalog:*", "scope=repository:A/../b:pull"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
