//! Which configuration files name a node, whoever has written them. Reads them; judges nothing.

use std::path::{Path, PathBuf};

use toml::Value;

use super::block::{hosts, is_node};
use super::files::{self, FileError};
use super::syntax::parse;
use super::{containerd, podman};
use crate::cli::client::Endpoint;

/// What the files of a runtime say.
#[derive(Debug, Default)]
pub(in crate::cli) struct Mentions {
    /// The registries for which the node is asked.
    pub(in crate::cli) registries: Vec<String>,
    /// Files that the runtime cannot read either.
    pub(in crate::cli) broken: Vec<PathBuf>,
}

/// The registries for which containerd asks the node.
pub(in crate::cli) fn by_containerd(
    directory: &Path,
    node: &Endpoint,
) -> Result<Mentions, FileError> {
    let mut mentions = Mentions::default();
    for entry in files::entries(directory)? {
        let path = entry.join(containerd::FILE);
        if !path.is_file() {
            continue;
        }
        let Some(text) = files::read(&path)? else { continue };
        match parse(&text) {
            Ok(table) if hosts(&table).any(|host| is_node(host, node)) => {
                let name = entry.file_name().unwrap_or_default();
                mentions.registries.push(name.to_string_lossy().into_owned());
            }
            Ok(_) => {}
            Err(_) => mentions.broken.push(path),
        }
    }
    Ok(mentions)
}

/// The registries of which podman, skopeo and buildah take the node for a mirror.
pub(in crate::cli) fn by_podman(directory: &Path, node: &Endpoint) -> Result<Mentions, FileError> {
    let authority = node.authority();
    let is_node = |mirror: &Value| {
        let location = mirror.get("location").and_then(Value::as_str).unwrap_or_default();
        location.split('/').next() == Some(&authority)
    };
    let mut mentions = Mentions::default();
    let own = directory.join(podman::FILE);
    for path in podman::others(directory)?.into_iter().chain([own]) {
        let Some(text) = files::read(&path)? else { continue };
        let Ok(table) = parse(&text) else {
            mentions.broken.push(path);
            continue;
        };
        for entry in podman::tables(table.get("registry")) {
            if podman::tables(entry.get("mirror")).iter().any(is_node) {
                let prefix = entry.get("prefix").or_else(|| entry.get("location"));
                mentions.registries.extend(prefix.and_then(Value::as_str).map(str::to_owned));
            }
        }
    }
    Ok(mentions)
}
