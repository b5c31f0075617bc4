//! An image of one layer of random data: what is compared when one large blob is brought; random,
//! so that nothing on the way can make it smaller.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cluster::image::hex;
use crate::image::architecture;
use crate::run;

const CHUNK_BYTES: usize = 1 << 20;
/// Where the data begins: the same size and number give the same blob.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes the layout, tag `latest`. Each number gives other data.
pub(super) fn build(out: &Path, bytes: u64, number: u64) -> Result<()> {
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", out.display()))?;
    let layer = write_layer(&blobs, bytes, SEED ^ number)?;
    let write = |bytes: &[u8]| -> Result<(String, u64)> {
        let hex = hex(&Sha256::digest(bytes));
        fs::write(blobs.join(&hex), bytes)?;
        Ok((format!("sha256:{hex}"), bytes.len() as u64))
    };
    let config = write(
        json!({
            "architecture": architecture(), "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
        .to_string()
        .as_bytes(),
    )?;
    let manifest = write(
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0, "size": config.1},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer, "size": bytes}],
        })
        .to_string()
        .as_bytes(),
    )?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.0, "size": manifest.1,
            "annotations": {"org.opencontainers.image.ref.name": "latest"}}],
    });
    fs::write(out.join("index.json"), index.to_string())?;
    fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Writes the data under its digest.
fn write_layer(blobs: &Path, bytes: u64, seed: u64) -> Result<String> {
    let partial = blobs.join("partial");
    let mut file = BufWriter::with_capacity(CHUNK_BYTES, File::create(&partial)?);
    let mut hash = Sha256::new();
    let mut state = seed;
    let mut left = bytes;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        run::go_on()?;
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        let length = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        hash.update(&chunk[..length]);
        file.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    file.flush()?;
    let hex = hex(&hash.finalize());
    fs::rename(&partial, blobs.join(&hex))?;
    Ok(format!("sha256:{hex}"))
}

/// Marsaglia's xorshift: no compressor finds anything in it.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::Image;

    #[test]
    fn the_blob_has_its_size_and_its_digest() {
        let out = std::env::temp_dir().join(format!("xylem-blob-{}", std::process::id()));
        build(&out, (1 << 20) + 3, 1).unwrap();
        let other = Image::read(&out).unwrap().largest().0.to_owned();
        fs::remove_dir_all(&out).unwrap();
        build(&out, (1 << 20) + 3, 0).unwrap();
        let image = Image::read(&out).unwrap();
        assert_ne!(image.largest().0, other, "another number");
        assert_eq!(image.largest().1, (1 << 20) + 3);
        image.check(&out).unwrap();
        fs::remove_dir_all(&out).unwrap();
    }
}
