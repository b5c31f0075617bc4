//! containerd: which `hosts.toml` files change, and how. Reads them; writes none.

use std::path::{Path, PathBuf};

use super::block::{self, BlockError, Made};
use super::files::{self, Edit, FileError};
use super::host::RegistryHost;
use super::registries::{Registry, Scheme};
use super::syntax::parse;
use super::{InstallError, Plan};
use crate::cli::client::Endpoint;

/// The directory that containerd takes for registries that have none of their own.
const CATCH_ALL: &str = "_default";
pub(super) const FILE: &str = "hosts.toml";
/// What containerd reads in a directory without a `hosts.toml`.
const CERTIFICATES: [&str; 3] = ["crt", "cert", "key"];

/// What asks the node first for these registries.
pub(super) fn install(
    directory: &Path,
    registries: &[Registry],
    node: &Endpoint,
) -> Result<Plan, InstallError> {
    let mut plan = Plan::default();
    let catch_all = files::read(&directory.join(CATCH_ALL).join(FILE))?;
    let catches = catch_all.is_some_and(|text| match block::find(&text) {
        Ok(Some(found)) => !block::is_file(&text, &found),
        _ => true,
    });
    for Registry { host, scheme } in registries {
        let path = path(directory, host);
        let edit = edit(&path, Some((host, *scheme)), node)?;
        if edit.before.is_none() && catches {
            let default = directory.join(CATCH_ALL).join(FILE);
            let (path, default) = (path.display(), default.display());
            plan.notes.push(format!("{path} takes the place of {default} for {host}"));
        }
        plan.notes.extend(fallback(&edit, *scheme));
        plan.edits.push(edit);
    }
    Ok(plan)
}

/// What asks the node first for every registry without a directory of its own.
pub(super) fn install_all(directory: &Path, node: &Endpoint) -> Result<Plan, InstallError> {
    let edit = edit(&directory.join(CATCH_ALL).join(FILE), None, node)?;
    let mut plan = Plan { edits: vec![edit], ..Plan::default() };
    for own in files::entries(directory)?.into_iter().filter(|own| own.is_dir()) {
        let Some(name) = own.file_name().filter(|name| *name != CATCH_ALL) else { continue };
        let asks = files::read(&own.join(FILE)).ok().flatten();
        let asks = asks.and_then(|text| parse(&text).ok());
        if !asks.is_some_and(|table| block::hosts(&table).any(|host| block::is_node(host, node))) {
            let (own, name) = (own.display(), name.to_string_lossy());
            plan.notes.push(format!("{name} has {own} and is not covered: name it --registry"));
        }
    }
    Ok(plan)
}

/// What takes Xylem's hosts out again: for these registries, or wherever they are.
pub(super) fn uninstall(
    directory: &Path,
    registries: &[RegistryHost],
) -> Result<Plan, InstallError> {
    let mut plan = Plan::default();
    for path in written(directory, registries)? {
        match files::read(&path).map_err(InstallError::from).and_then(|text| without(&path, text)) {
            Ok((edit, note)) => {
                plan.edits.push(edit);
                plan.notes.extend(note);
            }
            Err(error) => plan.refusals.push(error),
        }
    }
    Ok(plan)
}

/// Where hosts are, or would be.
fn written(directory: &Path, registries: &[RegistryHost]) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = Vec::new();
    for host in registries {
        let names = names(host);
        let there = names.iter().map(|name| directory.join(name).join(FILE));
        let there: Vec<_> = there.filter(|path| path.exists()).collect();
        match there.is_empty() {
            true => paths.push(path(directory, host)),
            false => paths.extend(there),
        }
    }
    if registries.is_empty() {
        for entry in files::entries(directory)? {
            let path = entry.join(FILE);
            if path.is_file() && has_marks(&path)? {
                paths.push(path);
            }
        }
    }
    paths.dedup();
    Ok(paths)
}

fn has_marks(path: &Path) -> Result<bool, FileError> {
    Ok(files::read(path)?.is_some_and(|text| !matches!(block::find(&text), Ok(None))))
}

/// The names that a registry's directory may have, the one that containerd looks for first.
fn names(host: &RegistryHost) -> Vec<String> {
    match host.parts() {
        (name, Some(port)) => vec![format!("{name}_{port}_"), host.to_string()],
        (name, None) => vec![name.to_owned()],
    }
}

/// The file that containerd reads for a registry.
fn path(directory: &Path, host: &RegistryHost) -> PathBuf {
    let there = names(host).into_iter().map(|name| directory.join(name)).find(|path| path.exists());
    there.unwrap_or_else(|| directory.join(host.as_str())).join(FILE)
}

fn server(host: &RegistryHost, scheme: Scheme) -> String {
    match host.as_str() {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        host => format!("{}://{host}", scheme.name()),
    }
}

/// One file with the node in it. Without a registry it is the catch-all.
fn edit(
    path: &Path,
    registry: Option<(&RegistryHost, Option<Scheme>)>,
    node: &Endpoint,
) -> Result<Edit, InstallError> {
    let before = files::read(path)?;
    refuse_certificates(path, before.as_deref())?;
    let refused = |source| InstallError::Hosts { path: path.to_owned(), source };
    let after = match &before {
        None => {
            let server =
                registry.map(|(host, scheme)| server(host, scheme.unwrap_or(Scheme::Https)));
            block::file(server.as_deref(), node, files::missing_directories(path))
        }
        Some(text) => match block::find(text).map_err(refused)? {
            None => block::insert(text, node).map_err(refused)?,
            Some(found) => {
                let scheme = registry.and_then(|(host, scheme)| Some((host, scheme?)));
                let renewed = block::renew(text, &found, node).map_err(refused)?;
                match (found.made, scheme) {
                    (Made::File { directories }, Some((host, scheme)))
                        if block::is_file(text, &found) =>
                    {
                        block::file(Some(&server(host, scheme)), node, directories)
                    }
                    _ => renewed,
                }
            }
        },
    };
    Ok(Edit { path: path.to_owned(), before, after: Some(after), directories: 0 })
}

/// Certificates beside it count for containerd only until a `hosts.toml` names a host.
fn refuse_certificates(path: &Path, text: Option<&str>) -> Result<(), InstallError> {
    let names_hosts = text.and_then(|text| parse(text).ok());
    if names_hosts.is_some_and(|table| block::hosts(&table).next().is_some()) {
        return Ok(());
    }
    let Some(directory) = path.parent() else { return Ok(()) };
    let is_certificate = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| CERTIFICATES.contains(&extension))
    };
    match files::entries(directory)?.into_iter().find(is_certificate) {
        Some(found) => Err(InstallError::Certificates { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// What to know of a file of the user's that leaves it to containerd how the registry is asked.
fn fallback(edit: &Edit, scheme: Option<Scheme>) -> Option<String> {
    let table = parse(edit.before.as_deref()?).ok()?;
    let plain = scheme == Some(Scheme::Http) && !table.contains_key("server");
    let path = edit.path.display();
    plain.then(|| format!("{path} names no `server`, so the registry itself is asked by https"))
}

/// One file without the node, and what to know of it.
fn without(path: &Path, text: Option<String>) -> Result<(Edit, Option<String>), InstallError> {
    let path = path.to_owned();
    let refused = |source| InstallError::Hosts { path: path.clone(), source };
    let unchanged =
        Edit { path: path.clone(), before: text.clone(), after: text.clone(), directories: 0 };
    let Some(text) = text else { return Ok((unchanged, None)) };
    let Some(found) = block::find(&text).map_err(refused)? else { return Ok((unchanged, None)) };
    if let Made::File { directories } = found.made
        && block::is_file(&text, &found)
    {
        return Ok((Edit { after: None, directories, ..unchanged }, None));
    }
    let after = block::remove(&text, &found);
    if parse(&text).is_ok() && !block::says_the_same(&text, &after, &found.node) {
        return Err(refused(BlockError::Edited));
    }
    let shown = path.display();
    let note = format!("{shown} was edited since it was written: all but Xylem's block is left");
    let note = matches!(found.made, Made::File { .. }).then_some(note);
    Ok((Edit { after: Some(after), ..unchanged }, note))
}
