//! Image layouts written by hand: manifests and layers of kinds that no tool makes on request.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::image::hex;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layout that grows.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
}

/// A layer in a layout: its descriptor, and the digest of what it is uncompressed.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) descriptor: Value,
    diff_id: String,
}

impl Layer {
    /// Of the blob.
    pub(super) fn digest(&self) -> Result<&str> {
        self.descriptor["digest"].as_str().context("a layer without a digest")
    }
}

impl Layout {
    /// An empty layout in a new directory.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { directory: directory.to_path_buf() })
    }

    /// Adds a blob of any kind; returns its descriptor.
    pub(super) fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let hex = hex(&Sha256::digest(bytes));
        fs::write(self.path(&hex), bytes)?;
        let digest = format!("sha256:{hex}");
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    /// Where a blob is.
    pub(super) fn path(&self, hex: &str) -> PathBuf {
        self.directory.join("blobs/sha256").join(hex)
    }

    /// Adds an archive as a layer.
    pub(super) fn layer(&self, tar: &[u8], compress: bool) -> Result<Layer> {
        let diff_id = format!("sha256:{}", hex(&Sha256::digest(tar)));
        let descriptor = if compress {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(tar)?;
            self.blob(TAR_GZIP, &gzip.finish()?)?
        } else {
            self.blob(TAR, tar)?
        };
        Ok(Layer { descriptor, diff_id })
    }

    /// Adds config and manifest of an image that runs `command`; returns the manifest's descriptor.
    pub(super) fn image(
        &self,
        architecture: &str,
        layers: &[Layer],
        command: &[&str],
    ) -> Result<Value> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes())?;
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let mut descriptor = self.manifest(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        }))?;
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        Ok(descriptor)
    }

    /// Adds a manifest or an index; returns its descriptor.
    pub(super) fn manifest(&self, manifest: &Value) -> Result<Value> {
        let media_type = manifest["mediaType"].as_str().context("no mediaType")?;
        self.blob(media_type, manifest.to_string().as_bytes())
    }

    /// Gives a manifest a tag: the only one of this layout. Returns what `skopeo` calls the layout.
    pub(super) fn tag(&self, mut descriptor: Value, tag: &str) -> Result<String> {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
        fs::write(self.directory.join("index.json"), index.to_string())?;
        Ok(format!("oci:{}:{tag}", self.directory.display()))
    }
}

/// An archive of small files.
pub(super) fn archive(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

/// The first layer of a layout's first image, uncompressed: something that runs.
pub(super) fn first_layer(layout: &Path) -> Result<Vec<u8>> {
    let blob = |descriptor: &Value| -> Result<Vec<u8>> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        Ok(fs::read(layout.join("blobs").join(digest.replacen(':', "/", 1)))?)
    };
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])?)?;
    let mut tar = Vec::new();
    MultiGzDecoder::new(&*blob(&manifest["layers"][0])?).read_to_end(&mut tar)?;
    Ok(tar)
}
