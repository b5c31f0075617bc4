//! podman, skopeo and buildah: how the drop-in changes, and which other files it would override.
//! Reads them; writes none.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::dropin::{Dropin, Entry};
use super::files::{self, Edit, FileError};
use super::host::RegistryHost;
use super::registries::{Registry, Scheme};
use super::syntax::parse;
use super::{InstallError, Plan};
use crate::cli::client::Endpoint;
use crate::limits::REGISTRIES_MAX;

pub(super) const FILE: &str = "50-xylem.conf";

/// What asks the node first for these registries, and for those of earlier.
pub(super) fn install(
    directory: &Path,
    registries: &[Registry],
    node: &Endpoint,
) -> Result<Plan, InstallError> {
    let authority = node.authority();
    if authority.starts_with('[') {
        return Err(InstallError::NodeAddress(node.as_str().to_owned()));
    }
    let path = directory.join(FILE);
    let before = files::read(&path)?;
    let mut dropin = match &before {
        Some(text) => {
            Dropin::parse(text).ok_or_else(|| InstallError::EditedDropin(path.clone()))?
        }
        None => Dropin { directories: files::missing_directories(&path), ..Dropin::default() },
    };
    for registry in registries {
        put(&mut dropin, registry, &authority);
    }
    if dropin.entries.len() > REGISTRIES_MAX as usize {
        return Err(InstallError::TooMany);
    }
    for other in others(directory)? {
        let Some(text) = files::read(&other)? else { continue };
        let table =
            parse(&text).map_err(|source| InstallError::Toml { path: other.clone(), source })?;
        for Registry { host, .. } in registries {
            let entry = dropin.entries.iter().find(|entry| entry.host == *host);
            if let (true, Some(entry)) = (settles(&table, host), entry) {
                let (path, host) = (other, host.clone());
                return Err(InstallError::Overrides { path, host, mirror: entry.mirror() });
            }
        }
    }
    let after = Some(dropin.render());
    let edit = Edit { path, before, after, directories: 0 };
    Ok(Plan { edits: vec![edit], ..Plan::default() })
}

/// Adds a registry, or brings it up to date. What nobody could say now stays as it was.
fn put(dropin: &mut Dropin, registry: &Registry, node: &str) {
    let Registry { host, scheme } = registry;
    let entry = match dropin.entries.iter_mut().find(|entry| entry.host == *host) {
        Some(entry) => entry,
        None => {
            let entry = Entry { host: host.clone(), insecure: false, node: String::new() };
            dropin.entries.push(entry);
            let last = dropin.entries.len() - 1;
            &mut dropin.entries[last]
        }
    };
    node.clone_into(&mut entry.node);
    entry.insecure = scheme.map_or(entry.insecure, |scheme| scheme == Scheme::Http);
}

/// What takes these registries out of the drop-in, or all of it away.
pub(super) fn uninstall(
    directory: &Path,
    registries: &[RegistryHost],
) -> Result<Plan, InstallError> {
    let path = directory.join(FILE);
    let before = files::read(&path)?;
    let Some(text) = &before else {
        let edit = Edit { path, before: None, after: None, directories: 0 };
        return Ok(Plan { edits: vec![edit], ..Plan::default() });
    };
    let mut dropin = Dropin::parse(text).ok_or_else(|| InstallError::EditedDropin(path.clone()))?;
    dropin.entries.retain(|entry| !(registries.is_empty() || registries.contains(&entry.host)));
    let directories = dropin.directories;
    let after = (!dropin.entries.is_empty()).then(|| dropin.render());
    let edit = Edit { path, before, after, directories };
    Ok(Plan { edits: vec![edit], ..Plan::default() })
}

/// The other files that podman reads: the main one beside the directory, and the drop-ins in it.
pub(super) fn others(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let main = match directory.parent() {
        Some(parent) => parent.join("registries.conf"),
        None => PathBuf::from("registries.conf"),
    };
    let mut paths = vec![main];
    let is_dropin = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    paths.extend(files::entries(directory)?.into_iter().filter(is_dropin));
    paths.retain(|path| path.file_name().is_none_or(|name| name != FILE));
    Ok(paths)
}

/// Whether a `registries.conf` says how a registry is reached, so that an entry of ours would take
/// its place.
fn settles(table: &Table, host: &RegistryHost) -> bool {
    let text = |entry: &Value, key: &str| entry.get(key)?.as_str().map(str::to_owned);
    let prefixes = tables(table.get("registry")).iter().filter_map(|entry| {
        text(entry, "prefix")
            .filter(|prefix| !prefix.is_empty())
            .or_else(|| text(entry, "location"))
    });
    // The lists of the first version of the format.
    let listed = ["insecure", "block"].into_iter().flat_map(|kind| {
        let list = table.get("registries").and_then(|lists| lists.get(kind)?.get("registries"));
        list.and_then(Value::as_array).into_iter().flatten()
    });
    let listed = listed.filter_map(|name| name.as_str().map(str::to_owned));
    prefixes.chain(listed).any(|prefix| covers(prefix.trim_end_matches('/'), host))
}

/// The tables of an array, if it is there.
pub(super) fn tables(array: Option<&Value>) -> &[Value] {
    array.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a prefix is for a registry as a whole: by its name, by that of its host, or by a
/// wildcard. One for a part of its repositories stays in force beside ours.
fn covers(prefix: &str, host: &RegistryHost) -> bool {
    let (name, _) = host.parts();
    match prefix.strip_prefix('*') {
        Some(domain) => name.ends_with(domain) || host.as_str().ends_with(domain),
        None => prefix == host.as_str() || prefix == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settles_a_registry() {
        let host: RegistryHost = "r.example:5000".parse().unwrap();
        for text in [
            "[[registry]]\nprefix = \"r.example:5000\"\n",
            "[[registry]]\nlocation = \"r.example:5000\"\n",
            "[[registry]]\nprefix = \"\"\nlocation = \"r.example:5000/\"\n",
            "[[registry]]\nlocation = \"a\"\n[[registry]]\nprefix = \"*.example\"\n",
            "[[registry]]\nprefix = \"*.example:5000\"\n",
            "[[registry]]\nlocation = \"r.example\"\n",
            "[registries.insecure]\nregistries = [\"r.example:5000\"]\n",
            "[registries.block]\nregistries = [\"r.example:5000\"]\n",
        ] {
            assert!(settles(&text.parse().unwrap(), &host), "{text}");
        }
        for text in [
            "",
            "registry = 5\n",
            "[[registry]]\nprefix = \"r.example:5000/team\"\n",
            "[[registry]]\nprefix = \"r.example:5001\"\n",
            "[[registry]]\nprefix = \"other\"\nlocation = \"r.example:5000\"\n",
            "[[registry]]\nprefix = \"*.r.example\"\n",
            "[registries.search]\nregistries = [\"r.example:5000\"]\n",
            "unqualified-search-registries = [\"r.example:5000\"]\n",
        ] {
            assert!(!settles(&text.parse().unwrap(), &host), "{text}");
        }
    }
}
