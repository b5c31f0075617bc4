//! Container images: one out of this machine's own files, so that a demo needs no network, and
//! fixtures out of packages, so that tests have what real images have.
//!
//! The former is a proper OCI image layout: several layers of uneven size, plain tar except the
//! last, which is gzip, so that both kinds travel. The same files give the same digests.

pub(crate) mod fixture;
mod layout;
mod source;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
pub(crate) use layout::architecture;

use crate::run;

/// Megabytes of files in the image where nothing else is asked for.
const SIZE_DEFAULT: &str = "300MB";
/// The smallest image that still has files in each layer.
const SIZE_BYTES_MIN: u64 = 1_000_000;
const SIZE_BYTES_MAX: u64 = 20_000_000_000;
/// Raise it when the same files are to give another image.
const FORMAT: &str = "xylem image 1";

/// Which image to make, and where.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    which: Which,
}

#[derive(Subcommand, Debug)]
enum Which {
    /// Several layers of /usr
    Default {
        /// The directory to make: an OCI image layout, tag `latest`
        out: PathBuf,
        /// How much to take: a number with kB, MB or GB
        #[arg(long, default_value = SIZE_DEFAULT, value_parser = parse_size)]
        size: u64,
    },
    /// A static busybox of Debian: 2 MB in one layer
    Tiny(Out),
    /// Debian's Python, not configured: 59 MB in two layers
    Small(Out),
    /// Debian with Python and wheels for data people: 800 MB in seven layers
    Big(Out),
}

#[derive(Args, Debug)]
struct Out {
    /// The directory to make: an OCI image layout, tag `latest`
    out: PathBuf,
}

/// `cargo xtask image`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (Which::Default { out, .. }
    | Which::Tiny(Out { out })
    | Which::Small(Out { out })
    | Which::Big(Out { out })) = &options.which;
    ensure!(!out.exists(), "{} exists already", out.display());
    match &options.which {
        Which::Default { size, .. } => layout::build(&source::select(*size)?, out)?,
        Which::Tiny(_) => fixture::export(&fixture::TINY, out)?,
        Which::Small(_) => fixture::export(&fixture::SMALL, out)?,
        Which::Big(_) => fixture::export(&fixture::BIG, out)?,
    }
    println!("{}", out.display());
    Ok(())
}

/// The default image of about that size, from the cache if this machine's files are as they were.
pub(crate) fn cached(size: u64) -> Result<PathBuf> {
    let files = source::select(size)?;
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let prefix = format!("usr-{size}-");
    let out = cache.join(format!("{prefix}{}", source::fingerprint(FORMAT, &files)));
    if out.exists() {
        return Ok(out);
    }
    for stale in fs::read_dir(&cache)?.filter_map(|entry| entry.ok()) {
        if stale.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_dir_all(stale.path());
        }
    }
    layout::build(&files, &out)?;
    Ok(out)
}

/// Copies an image's layout with its layers compressed by zstd to another; needs `skopeo`.
pub(crate) fn recompressed(layout: &Path, out: &Path) -> Result<()> {
    let mut skopeo = run::command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-compress-format", "zstd"]);
    skopeo.args([layout, out].map(|layout| format!("oci:{}:latest", layout.display())));
    run::output(&mut skopeo).map(drop).context("cannot compress the layers by zstd")
}

/// The size of the image that the demo brings when none is named.
pub(crate) fn default_size() -> u64 {
    parse_size(SIZE_DEFAULT).unwrap_or(SIZE_BYTES_MIN)
}

fn cache_dir() -> Result<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Ok(named.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("xylem"))
}

fn parse_size(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => bail!("a size is a number with kB, MB or GB, as in 300MB"),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let size = size.filter(|size| (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(size));
    size.context("a size is between 1MB and 20GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_bounds() {
        assert_eq!(parse_size("300MB").unwrap(), 300_000_000);
        assert_eq!(parse_size("2GB").unwrap(), 2_000_000_000);
        for bad in ["", "300", "MB", "1kB", "300MiB", "21GB", "99999999999999999999GB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
