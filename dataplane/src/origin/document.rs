//! What stands in a manifest or an index, as far as a node needs it: blobs, sizes, platforms. Not a
//! validator.

use std::fmt;

use serde::Deserialize;
use xylem_protocol::Digest;
use xylem_protocol::limits::{BLOB_MAX, LAYERS_MAX};

/// An entry of a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Its type.
    pub media_type: String,
}

/// `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// From its usual form; `None` if it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next()?, parts.next()?);
        let variant = parts.next();
        let full = [Some(os), Some(architecture), variant].into_iter().flatten();
        if full.clone().any(str::is_empty) || parts.next().is_some() {
            return None;
        }
        Some(Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(Into::into),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// A manifest or an index, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One platform's image: configuration, then layers.
    Image(Vec<Descriptor>),
    /// Images for several platforms.
    Index(Vec<(Descriptor, Option<Platform>)>),
}

#[derive(Deserialize)]
struct RawDescriptor {
    digest: String,
    size: u64,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Vec<RawDescriptor>,
    manifests: Option<Vec<RawDescriptor>>,
}

impl Document {
    /// What it names: configuration and layers, or the images of an index.
    pub fn digests(&self) -> Vec<Digest> {
        match self {
            Self::Image(blobs) => blobs.iter().map(|blob| blob.digest).collect(),
            Self::Index(images) => images.iter().map(|(image, _)| image.digest).collect(),
        }
    }

    /// Reads one; `None` if it is neither, names a blob by another algorithm, or is beyond the
    /// limits.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(bytes).ok()?;
        if let Some(manifests) = raw.manifests {
            if manifests.len() > LAYERS_MAX {
                return None;
            }
            let entry = |mut raw: RawDescriptor| {
                let platform = raw.platform.take().map(|p| Platform {
                    os: p.os,
                    architecture: p.architecture,
                    variant: p.variant,
                });
                Some((descriptor(raw)?, platform))
            };
            return manifests.into_iter().map(entry).collect::<Option<_>>().map(Self::Index);
        }
        if raw.layers.len() > LAYERS_MAX {
            return None;
        }
        let blobs = std::iter::once(raw.config?).chain(raw.layers);
        blobs.map(descriptor).collect::<Option<_>>().map(Self::Image)
    }

    /// The image for a platform; of several, the first. A wanted variant must be the same, else any
    /// will do.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let Self::Index(manifests) = self else { return None };
        let fits = |platform: &Option<Platform>| {
            platform.as_ref().is_some_and(|have| {
                have.os == wanted.os
                    && have.architecture == wanted.architecture
                    && (wanted.variant.is_none() || have.variant == wanted.variant)
            })
        };
        manifests.iter().find(|(_, platform)| fits(platform)).map(|(descriptor, _)| descriptor)
    }
}

fn descriptor(raw: RawDescriptor) -> Option<Descriptor> {
    let digest = raw.digest.parse().ok()?;
    (raw.size <= BLOB_MAX).then_some(Descriptor {
        digest,
        size: raw.size,
        media_type: raw.media_type,
    })
}

/// The type of a manifest whose `Content-Type` was not kept: what it says itself, else what its
/// fields say.
pub fn media_type_of(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Raw>(bytes) {
        Ok(raw) if !raw.media_type.is_empty() => raw.media_type,
        Ok(raw) if raw.manifests.is_some() => "application/vnd.oci.image.index.v1+json".into(),
        Ok(_) => "application/vnd.oci.image.manifest.v1+json".into(),
        Err(_) => "application/octet-stream".into(),
    }
}

/// Whether a media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    media_type.contains("image.index") || media_type.contains("manifest.list")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(last: char) -> String {
        format!("sha256:{}{last}", "0".repeat(63))
    }

    #[test]
    fn an_image_lists_its_configuration_first() {
        let json = format!(
            r#"{{"config":{{"digest":"{}","size":3}},
            "layers":[{{"digest":"{}","size":4,"mediaType":"x"}}]}}"#,
            zeros('1'),
            zeros('2')
        );
        let Some(Document::Image(blobs)) = Document::parse(json.as_bytes()) else { panic!() };
        assert_eq!((blobs[0].size, blobs[1].size), (3, 4));
        assert_eq!(media_type_of(json.as_bytes()), "application/vnd.oci.image.manifest.v1+json");
    }

    #[test]
    fn a_platform_is_found_in_an_index() {
        let json = format!(
            r#"{{"mediaType":"m","manifests":[{{"digest":"{}","size":1}},
            {{"digest":"{}","size":2,
            "platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
            zeros('1'),
            zeros('2')
        );
        let index = Document::parse(json.as_bytes()).unwrap();
        let select = |text| index.select(&Platform::parse(text).unwrap()).map(|found| found.size);
        assert_eq!(select("linux/arm64"), Some(2));
        assert_eq!(select("linux/arm64/v8"), Some(2));
        assert_eq!(select("linux/arm64/v7"), None);
        assert_eq!(select("linux/amd64"), None);
        assert_eq!(media_type_of(json.as_bytes()), "m");
    }

    #[test]
    fn what_is_neither() {
        let sha512 = r#"{"config":{"digest":"sha512:00","size":1},"layers":[]}"#;
        let huge = format!(r#"{{"config":{{"digest":"{}","size":{}}}}}"#, zeros('1'), u64::MAX);
        for bad in ["", "[]", "{}", r#"{"schemaVersion":1,"fsLayers":[]}"#, sha512, &huge] {
            assert_eq!(Document::parse(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
            assert_eq!(Platform::parse(bad), None, "{bad}");
        }
    }
}
