//! Configuration files as they are changed: read whole, replaced in one step, removed with the
//! directories that were made for them. What stands in them is others' business.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::limits::{CONFIG_ENTRIES_MAX, CONFIG_FILE_MAX, DIRECTORIES_MAX};

/// Mode of a new file; the runtimes' users read it.
const MODE: u32 = 0o644;

/// Why a file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum FileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("{0} is no regular file")]
    Kind(PathBuf),
    #[error("{0} is longer than {CONFIG_FILE_MAX} bytes")]
    TooLarge(PathBuf),
    #[error("{0} is no UTF-8 text")]
    Text(PathBuf),
    #[error("{0} was changed by somebody else meanwhile: try again")]
    Meanwhile(PathBuf),
    #[error("{0} has more than {CONFIG_ENTRIES_MAX} entries")]
    TooMany(PathBuf),
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Create,
    Change,
    Remove,
    None,
}

/// A file before and after. `None`: there is no such file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) path: PathBuf,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// How many of the directories above go with the file, if they are empty by then.
    pub(super) directories: u32,
}

impl Edit {
    pub(super) fn action(&self) -> Action {
        match (&self.before, &self.after) {
            (None, Some(_)) => Action::Create,
            (Some(_), None) => Action::Remove,
            (before, after) if before == after => Action::None,
            _ => Action::Change,
        }
    }

    /// Makes the file what it is to be; a reader sees it as before or as after, nothing between.
    pub(super) fn apply(&self) -> Result<(), FileError> {
        if self.action() == Action::None {
            return Ok(());
        }
        if read(&self.path)? != self.before {
            return Err(FileError::Meanwhile(self.path.clone()));
        }
        match &self.after {
            Some(text) => self.write(text).map_err(|source| {
                let path = self.path.clone();
                match source.kind() {
                    io::ErrorKind::AlreadyExists => FileError::Meanwhile(path),
                    _ => FileError::Write { path, source },
                }
            }),
            None => fs::remove_file(&self.path)
                .and_then(|()| sync(directory(&self.path)))
                .map_err(|source| FileError::Remove { path: self.path.clone(), source }),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let fresh = self.before.is_none();
        let target = if fresh { self.path.clone() } else { fs::canonicalize(&self.path)? };
        let directory = directory(&target);
        let missing = missing_directories(&target);
        fs::create_dir_all(directory)?;
        let written = replace(&target, directory, text, fresh);
        if written.is_err() {
            remove_directories(target.ancestors().skip(1).take(missing as usize));
        }
        written
    }
}

/// Removes the directories that were made for files that are gone; those of others' files stay.
pub(super) fn tidy<'a>(edits: impl Iterator<Item = &'a Edit>) {
    let gone = edits.filter(|edit| edit.action() == Action::Remove);
    let mut directories: Vec<_> = gone
        .flat_map(|edit| edit.path.ancestors().skip(1).take(edit.directories as usize))
        .collect();
    // The deepest first: one above several goes when the last below it is gone.
    directories.sort_unstable_by_key(|path| (Reverse(path.components().count()), *path));
    directories.dedup();
    remove_directories(directories.into_iter());
}

fn replace(target: &Path, directory: &Path, text: &str, fresh: bool) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".xylem-").tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    if fresh {
        file.as_file().set_permissions(fs::Permissions::from_mode(MODE))?;
    } else {
        let as_before = fs::metadata(target)?;
        let now = file.as_file().metadata()?;
        if (now.uid(), now.gid()) != (as_before.uid(), as_before.gid()) {
            fchown(file.as_file(), Some(as_before.uid()), Some(as_before.gid()))?;
        }
        file.as_file().set_permissions(as_before.permissions())?;
    }
    file.as_file().sync_all()?;
    if fresh {
        file.persist_noclobber(target)?;
    } else {
        file.persist(target)?;
    }
    sync(directory)
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// How many directories must be made before the file can be.
pub(super) fn missing_directories(path: &Path) -> u32 {
    let above = path.ancestors().skip(1).take(DIRECTORIES_MAX as usize);
    let missing = above.take_while(|path| *path != Path::new("") && !path.exists());
    u32::try_from(missing.count()).unwrap_or(DIRECTORIES_MAX)
}

fn remove_directories<'a>(directories: impl Iterator<Item = &'a Path>) {
    for directory in directories {
        // One that is not empty, or gone already, is none of ours any more.
        let _ = fs::remove_dir(directory);
    }
}

/// The text of a file, if there is one.
pub(in crate::cli) fn read(path: &Path) -> Result<Option<String>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    // Of a link, what it leads to; one that leads nowhere is an error, not a missing file.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::Kind(path.to_owned()));
    }
    if metadata.len() > CONFIG_FILE_MAX {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    let bytes = fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map(Some).map_err(|_| FileError::Text(path.to_owned()))
}

/// What is in a directory, in order; nothing where it is missing.
pub(in crate::cli) fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError::Read { path: directory.to_owned(), source };
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.map_err(failed)?.path());
        if paths.len() > CONFIG_ENTRIES_MAX as usize {
            return Err(FileError::TooMany(directory.to_owned()));
        }
    }
    paths.sort_unstable();
    Ok(paths)
}
