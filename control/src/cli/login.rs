//! Credentials of whoever types: from the command line, or from the files in which podman, skopeo
//! and docker keep them. Reads only; what it finds is neither shown nor written anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Deserialize;
use xylem_protocol::names::Reference;

use crate::limits::{AUTH_FILE_MAX, CREDENTIALS_MAX};

/// As which docker's registry stands in its files.
const DOCKER: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// How to log in.
#[derive(Debug, Default, Args)]
pub(super) struct Options {
    /// Credentials for a private image; with - the first line of stdin, which no other user sees.
    /// The node passes them on and keeps none
    #[arg(long, value_name = "USER:PASSWORD|-", conflicts_with = "authfile")]
    creds: Option<Typed>,
    /// Where credentials stand [default: $REGISTRY_AUTH_FILE, containers/auth.json in
    /// $XDG_RUNTIME_DIR, ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Typed {
    Given(Credentials),
    Stdin,
}

/// Name and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl FromStr for Credentials {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let long = text.len() as u64 > CREDENTIALS_MAX;
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() && !long => {
                Ok(Self { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err("must be USER:PASSWORD"),
        }
    }
}

impl FromStr for Typed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "-" { Ok(Self::Stdin) } else { text.parse().map(Self::Given) }
    }
}

impl Credentials {
    /// As an `Authorization` header says them.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("cannot read credentials from stdin")]
    Stdin(#[source] io::Error),
    #[error("the first line of stdin {0}")]
    Line(&'static str),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no file of credentials", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the entry {key} of {} is no base64 of USER:PASSWORD", path.display())]
    Entry { path: PathBuf, key: String },
}

/// What there is for an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Credentials(Credentials),
    /// Another program keeps them, as a file says.
    Helper {
        path: PathBuf,
        program: String,
    },
    Nothing,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
}

impl Options {
    /// Looks for credentials for an image that is pulled through the node at `authority`: those for
    /// its registry before those for the node, as which podman knows the registry behind it.
    ///
    /// # Errors
    /// A file that was named, or is there, cannot be read.
    pub(super) fn find(&self, image: &Reference, authority: &str) -> Result<Found, LoginError> {
        match &self.creds {
            Some(Typed::Given(given)) => return Ok(Found::Credentials(given.clone())),
            Some(Typed::Stdin) => return read(io::stdin().lock()).map(Found::Credentials),
            None => {}
        }
        let variable = |name| std::env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
        let named = self.authfile.clone().or_else(|| variable("REGISTRY_AUTH_FILE"));
        let usual = [
            variable("XDG_RUNTIME_DIR").map(|it| it.join("containers/auth.json")),
            variable("HOME").map(|it| it.join(".docker/config.json")),
        ];
        match named {
            Some(path) => in_files(&[path], true, image, authority),
            None => in_files(&usual.map(Option::unwrap_or_default), false, image, authority),
        }
    }
}

fn read(stdin: impl BufRead) -> Result<Credentials, LoginError> {
    let mut line = String::new();
    stdin.take(CREDENTIALS_MAX + 1).read_line(&mut line).map_err(LoginError::Stdin)?;
    line.trim_end_matches(['\r', '\n']).parse().map_err(LoginError::Line)
}

fn in_files(
    paths: &[PathBuf],
    needed: bool,
    image: &Reference,
    authority: &str,
) -> Result<Found, LoginError> {
    let mut found = Found::Nothing;
    for path in paths {
        let Some(file) = open(path, needed)? else { continue };
        match file.find(path, image, authority)? {
            Found::Nothing => {}
            Found::Credentials(credentials) => return Ok(Found::Credentials(credentials)),
            helper if found == Found::Nothing => found = helper,
            Found::Helper { .. } => {}
        }
    }
    Ok(found)
}

fn open(path: &Path, needed: bool) -> Result<Option<AuthFile>, LoginError> {
    let failed = |source| LoginError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(AUTH_FILE_MAX).read_to_end(&mut text).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| LoginError::Parse { path: path.to_owned(), source })
}

impl AuthFile {
    fn find(&self, path: &Path, image: &Reference, node: &str) -> Result<Found, LoginError> {
        for wanted in keys(image, node) {
            let has = |(key, entry): &(&String, &Entry)| {
                bare(key) == wanted && !entry.auth.trim().is_empty()
            };
            if let Some((key, entry)) = self.auths.iter().find(has) {
                let bytes = STANDARD.decode(entry.auth.trim()).ok();
                let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
                // Docker pads what it writes with zeros.
                let text = text.as_deref().map(|text| text.trim_end_matches('\0'));
                let credentials = text.and_then(|text| text.parse().ok());
                let none = || LoginError::Entry { path: path.to_owned(), key: key.clone() };
                return credentials.map(Found::Credentials).ok_or_else(none);
            }
            if let Some((_, program)) = self.cred_helpers.iter().find(|it| bare(it.0) == wanted) {
                return Ok(Found::Helper { path: path.to_owned(), program: program.clone() });
            }
        }
        Ok(match self.creds_store.as_str() {
            "" => Found::Nothing,
            program => Found::Helper { path: path.to_owned(), program: program.to_owned() },
        })
    }
}

/// Under which names credentials may stand, the narrowest first.
fn keys(image: &Reference, node: &str) -> Vec<String> {
    let Reference { registry, repository, .. } = image;
    let own = [registry.as_str()];
    let hosts = if DOCKER.contains(&own[0]) { &DOCKER[..] } else { &own[..] };
    let ends = repository.match_indices('/').map(|(end, _)| end);
    let mut narrow: Vec<&str> = ends.map(|end| &repository[..end]).collect();
    narrow.push(repository);
    let of = |host: &str| {
        let within = narrow.iter().rev().map(|part| format!("{host}/{part}"));
        within.chain([host.to_owned()]).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(|host| of(host)).chain([node.to_owned()]).collect()
}

/// A key without what docker puts around a host (`https://HOST/v1/`).
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "127.0.0.1:4400";

    fn found(json: &str, image: &str) -> Result<Found, LoginError> {
        let file: AuthFile = serde_json::from_str(json).unwrap();
        file.find(Path::new("f"), &image.parse().unwrap(), NODE)
    }

    fn user(json: &str, image: &str) -> String {
        match found(json, image).unwrap() {
            Found::Credentials(credentials) => credentials.user,
            other => panic!("{other:?}"),
        }
    }

    /// `USER:p`, as files have it.
    fn auth(user: &str) -> String {
        format!("{{\"auth\": {:?}}}", STANDARD.encode(format!("{user}:p")))
    }

    #[test]
    fn the_narrowest_entry_counts() {
        let (host, team, node) = (auth("host"), auth("team"), auth("node"));
        let json = format!(
            r#"{{"auths": {{"r.example": {host}, "r.example/team": {team}, "{NODE}": {node}}}}}"#
        );
        assert_eq!(user(&json, "r.example/team/app:1"), "team");
        assert_eq!(user(&json, "r.example/teams/app:1"), "host");
        assert_eq!(user(&json, "r.example/app"), "host");
        assert_eq!(user(&json, "other.example/app"), "node", "podman knows it by the node");
    }

    #[test]
    fn dockers_own_registry_has_other_names() {
        let json = format!(r#"{{"auths": {{"https://index.docker.io/v1/": {}}}}}"#, auth("me"));
        assert_eq!(user(&json, "docker.io/library/busybox"), "me");
        assert_eq!(found(&json, "r.example/a").unwrap(), Found::Nothing);
    }

    #[test]
    fn what_a_helper_keeps_is_said_so() {
        let of = |json| match found(json, "r.example/a").unwrap() {
            Found::Helper { program, .. } => program,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(r#"{"credHelpers": {"r.example": "ecr"}}"#), "ecr");
        // Docker leaves an empty entry beside the store that has it.
        assert_eq!(of(r#"{"auths": {"r.example": {}}, "credsStore": "pass"}"#), "pass");
        let json = r#"{"credHelpers": {"q.example": "ecr"}, "HttpHeaders": {}}"#;
        assert_eq!(found(json, "r.example/a").unwrap(), Found::Nothing);
    }

    #[test]
    fn entries_that_are_none_are_named() {
        for bad in ["!", &STANDARD.encode("nobody"), &STANDARD.encode(":p")] {
            let json = format!(r#"{{"auths": {{"r.example": {{"auth": "{bad}"}}}}}}"#);
            let told = found(&json, "r.example/a").unwrap_err().to_string();
            assert_eq!(told, "the entry r.example of f is no base64 of USER:PASSWORD");
        }
    }

    #[test]
    fn what_is_typed_is_not_shown() {
        let typed: Typed = "me:secret:word".parse().unwrap();
        let Typed::Given(given) = &typed else { panic!("{typed:?}") };
        assert_eq!(given.basic(), format!("Basic {}", STANDARD.encode("me:secret:word")));
        assert!(!format!("{typed:?}").contains("secret"), "{typed:?}");
        assert!("me".parse::<Typed>().is_err() && ":p".parse::<Typed>().is_err());
        assert_eq!(read(&b"me:p w\r\nrest"[..]).unwrap().password, "p w");
        assert!(read(&b"nothing"[..]).is_err() && read(&b""[..]).is_err());
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let image = "r.example/a".parse().unwrap();
        let asked = |needed| in_files(std::slice::from_ref(&path), needed, &image, NODE);
        assert_eq!(asked(false).unwrap(), Found::Nothing);
        assert!(asked(true).unwrap_err().to_string().starts_with("cannot read"));
        std::fs::write(&path, "{").unwrap();
        let told = asked(false).unwrap_err().to_string();
        assert!(told.ends_with("auth.json is no file of credentials"), "{told}");
    }
}
