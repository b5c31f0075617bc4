//! What tags named last, written down: a node that restarts while their registry is down can go on.
//! One small file, replaced whole; who may have an image stands elsewhere and is asked anew.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::warn;
use xylem_protocol::limits::{TAGS_FILE_MAX, TAGS_REMEMBERED_MAX};

use super::Store;

/// First line of the file, and the CRC32C of the rest. Another version begins otherwise.
const MARK: &str = "xylem tags 1 ";

/// A tag, and what it named when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptTag {
    /// Registry and repository.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// Types that were accepted.
    pub accept: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// When the registry said so, seconds since 1970.
    pub unix_s: u64,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum TagsError {
    #[error("cannot be read")]
    Read(#[from] io::Error),
    #[error("is not of this version, or damaged")]
    Damaged,
    #[error("is longer than {TAGS_FILE_MAX} bytes")]
    Long,
    #[error("does not hold tags")]
    Json(#[from] serde_json::Error),
}

impl KeptTag {
    /// How long ago that was; `None` in what is the future by this machine's clock.
    pub fn age(&self) -> Option<Duration> {
        let when = UNIX_EPOCH.checked_add(Duration::from_secs(self.unix_s))?;
        SystemTime::now().duration_since(when).ok()
    }
}

impl Store {
    /// The tags that were kept, the oldest first. A file that cannot be used is said once and
    /// forgotten.
    pub fn kept_tags(&self) -> Vec<KeptTag> {
        let path = &self.0.tags;
        read(path).unwrap_or_else(|error| {
            let error = crate::oneline::chain(&error);
            warn!(path = %path.display(), error, "tags are not remembered: the file is of no use");
            Vec::new()
        })
    }

    /// Keeps these and no others. A kill at any moment leaves the old file or the new one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep_tags(&self, mut tags: Vec<KeptTag>) -> io::Result<()> {
        tags.sort_by_key(|tag| tag.unix_s);
        let mut body = serde_json::to_vec(&tags)?;
        while body.len() as u64 + 64 > TAGS_FILE_MAX {
            tags.drain(..tags.len().div_ceil(2));
            body = serde_json::to_vec(&tags)?;
        }
        let path = &self.0.tags;
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(format!("{MARK}{:08x}\n", crc32c::crc32c(&body)).as_bytes())?;
        file.write_all(&body)?;
        file.sync_data()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |root| File::open(root)?.sync_all())
    }
}

fn read(path: &Path) -> Result<Vec<KeptTag>, TagsError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(TAGS_FILE_MAX + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if bytes.len() as u64 > TAGS_FILE_MAX {
        return Err(TagsError::Long);
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or(TagsError::Damaged)?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    if head != format!("{MARK}{:08x}", crc32c::crc32c(body)).as_bytes() {
        return Err(TagsError::Damaged);
    }
    let mut tags: Vec<KeptTag> = serde_json::from_slice(body)?;
    tags.truncate(TAGS_REMEMBERED_MAX);
    Ok(tags)
}

/// What another store's file keeps.
#[cfg(test)]
pub(crate) fn kept_in(path: &Path) -> Vec<KeptTag> {
    read(path).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, unix_s: u64) -> KeptTag {
        let [name, tag, accept, digest] = [name, "v1", "*/*", "sha256:00"].map(str::to_owned);
        KeptTag { name, tag, accept, digest, unix_s }
    }

    #[test]
    fn tags_outlive_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.kept_tags(), []);
        store.keep_tags(vec![tag("b", 2), tag("a", 1)]).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.kept_tags(), [tag("a", 1), tag("b", 2)]);
        store.keep_tags(vec![tag("c", 3)]).unwrap();
        assert_eq!(store.kept_tags(), [tag("c", 3)]);
        assert!(!dir.path().join("tags.new").exists());
    }

    #[test]
    fn what_a_kill_or_a_disk_leaves_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.keep_tags(vec![tag("a", 1)]).unwrap();
        let path = dir.path().join("tags");
        let whole = fs::read(&path).unwrap();
        // A kill while the next file is written leaves this one.
        fs::write(path.with_extension("new"), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(store.kept_tags(), [tag("a", 1)]);
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.kept_tags(), [], "{length} of {} bytes", whole.len());
        }
        for index in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[index] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(store.kept_tags(), [], "byte {index}");
        }
        store.keep_tags(vec![tag("a", 1)]).unwrap();
        assert_eq!(store.kept_tags(), [tag("a", 1)]);
    }

    #[test]
    fn the_file_has_a_bound_and_the_latest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let long = "x".repeat(16 << 10);
        store.keep_tags((0..1024).map(|n| tag(&long, n)).collect()).unwrap();
        assert!(fs::metadata(dir.path().join("tags")).unwrap().len() <= TAGS_FILE_MAX);
        let kept = store.kept_tags();
        assert!(!kept.is_empty() && kept.last().unwrap().unix_s == 1023);
    }

    #[test]
    fn the_future_has_no_age() {
        assert!(tag("a", 1).age().unwrap() > Duration::from_secs(1_000_000_000));
        assert_eq!(tag("a", 1 << 40).age(), None);
        assert_eq!(tag("a", u64::MAX).age(), None);
    }
}
