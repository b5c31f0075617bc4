//! Writes an OCI image layout: tar layers, config, manifest, index; does not choose the files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::source::{Source, cut};
use crate::cluster::image::hex;
use crate::run;

/// Layers in parts of the whole: uneven, as real images are. The last one is compressed.
const PROPORTIONS: [u64; 6] = [38, 24, 18, 10, 6, 4];
/// The time of every file and of the image: the present would give another digest every time.
pub(super) const EPOCH_S: u64 = 1_700_000_000;
pub(super) const CREATED: &str = "2023-11-14T22:13:20Z";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

struct Layer {
    media_type: &'static str,
    digest: String,
    bytes: u64,
    diff_id: String,
}

/// Builds the layout in `out`, which appears only when it is complete.
pub(super) fn build(files: &[Source], out: &Path) -> Result<()> {
    let partial = out.with_extension(format!("partial-{}", std::process::id()));
    let built = build_in(files, &partial);
    let built = built.and_then(|()| Ok(fs::rename(&partial, out)?));
    if built.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    built.with_context(|| format!("cannot build the image in {}", out.display()))
}

fn build_in(files: &[Source], out: &Path) -> Result<()> {
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let runs = cut(files, &PROPORTIONS)?;
    let mut layers = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        layers.push(layer(run, index + 1 == runs.len(), &blobs)?);
    }
    let config = write_blob(out, config(&layers).to_string().as_bytes())?;
    let layers: Vec<Value> = layers
        .iter()
        .map(|it| json!({"mediaType": it.media_type, "digest": it.digest, "size": it.bytes}))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers,
    });
    let manifest = write_blob(out, manifest.to_string().as_bytes())?;
    let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    fs::write(out.join("index.json"), index.to_string())?;
    fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Writes a blob into a layout under its digest; returns digest and size.
fn write_blob(layout: &Path, bytes: &[u8]) -> Result<(String, u64)> {
    let hex = hex(&Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&hex), bytes)?;
    Ok((format!("sha256:{hex}"), bytes.len() as u64))
}

fn described(media_type: &str, (digest, bytes): &(String, u64)) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": bytes})
}

fn config(layers: &[Layer]) -> Value {
    let history = (1..=layers.len()).map(|number| {
        json!({"created": CREATED, "created_by": format!("cargo xtask image: layer {number}")})
    });
    json!({
        "created": CREATED,
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin"], "Cmd": ["/usr/bin/true"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| layer.diff_id.as_str()).collect::<Vec<_>>(),
        },
        "history": history.collect::<Vec<_>>(),
    })
}

/// This machine's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer(files: &[Source], compress: bool, blobs: &Path) -> Result<Layer> {
    let partial = blobs.join("partial");
    // What leaves for the file is hashed as the digest; what enters is hashed as the diff_id.
    let file = Hashing::new(BufWriter::with_capacity(1 << 20, File::create(&partial)?));
    let (file, diff_id) = if compress {
        let gzip = archive(files, Hashing::new(GzEncoder::new(file, Compression::fast())))?;
        (gzip.inner.finish()?, Some(gzip.hash))
    } else {
        (archive(files, file)?, None)
    };
    let Hashing { mut inner, hash, bytes } = file;
    inner.flush()?;
    let digest = hex(&hash.finalize());
    let diff_id = diff_id.map_or_else(|| digest.clone(), |hash| hex(&hash.finalize()));
    fs::rename(&partial, blobs.join(&digest))?;
    Ok(Layer {
        media_type: if compress { TAR_GZIP } else { TAR },
        digest: format!("sha256:{digest}"),
        bytes,
        diff_id: format!("sha256:{diff_id}"),
    })
}

fn archive<W: Write>(files: &[Source], to: W) -> Result<W> {
    let mut tar = tar::Builder::new(to);
    let mut made = BTreeSet::new();
    for file in files {
        run::go_on()?;
        let inside = file.path.strip_prefix("/").unwrap_or(&file.path);
        directories(inside, &mut made, &mut tar)?;
        let mut header = header(tar::EntryType::Regular, file.mode);
        if let Some(target) = &file.link {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, inside, target)?;
            continue;
        }
        header.set_size(file.bytes);
        let contents = File::open(&file.path)
            .with_context(|| format!("cannot read {}", file.path.display()))?;
        // A file that shrinks under our hands would break the archive; padding keeps it whole.
        let contents = io::Read::take(io::Read::chain(contents, io::repeat(0)), file.bytes);
        tar.append_data(&mut header, inside, contents)?;
    }
    Ok(tar.into_inner()?)
}

/// Adds the directories above a path that this layer does not have yet.
fn directories<W: Write>(
    path: &Path,
    made: &mut BTreeSet<PathBuf>,
    tar: &mut tar::Builder<W>,
) -> Result<()> {
    let mut directory = PathBuf::new();
    for part in path.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(part) = part else { continue };
        directory.push(part);
        if made.insert(directory.clone()) {
            let mut header = header(tar::EntryType::Directory, 0o755);
            tar.append_data(&mut header, format!("{}/", directory.display()), io::empty())?;
        }
    }
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(EPOCH_S);
    header.set_size(0);
    header
}

/// Counts and hashes what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
