//! Finds file systems in `/proc/mounts`; mounts nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::ProbeError;

const MOUNTS: &str = "/proc/mounts";

/// Mount points of the file systems of type `kind`, in the order of `/proc/mounts`.
pub(super) fn of_type(kind: &str) -> Result<Vec<PathBuf>, ProbeError> {
    let text = read(Path::new(MOUNTS))?;
    Ok(parse(&text, kind).collect())
}

/// Reads a file of `/proc` or a cgroup.
pub(super) fn read(path: &Path) -> Result<String, ProbeError> {
    std::fs::read_to_string(path)
        .map_err(|source: io::Error| ProbeError::Proc { path: path.to_owned(), source })
}

fn parse<'a>(text: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    text.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let (_source, point, fs) = (fields.next()?, fields.next()?, fields.next()?);
        (fs == kind).then(|| PathBuf::from(unescape(point)))
    })
}

/// `/proc/mounts` writes blanks and backslashes as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_by_type_and_unescapes_them() {
        let text = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                    cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                    cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                    x /mnt/a\\040b\\134c cgroup2 rw 0 0\nbroken";
        let found: Vec<_> = parse(text, "cgroup2").collect();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/a b\\c")]);
        assert_eq!(parse(text, "bpf").count(), 0);
    }

    #[test]
    fn a_lone_backslash_stays() {
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("a\\09"), "a\\09");
    }
}
