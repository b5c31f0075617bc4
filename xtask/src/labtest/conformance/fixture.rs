//! What lies in the registry while it is compared: an image in each form that there is, pushed by
//! plain HTTP so that every byte is known here.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::image::hex;
use crate::http;

/// The repository; a name with everything that one may have.
pub(super) const NAME: &str = "conformance/a.b/c_d/e__f/g--h";
/// Spans several blocks of a relay, and ends within one.
const LAYER_BYTES: usize = 3_000_001;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media types of manifests that clients ask for.
pub(super) const KINDS: [&str; 4] = [OCI, OCI_INDEX, DOCKER, DOCKER_LIST];

/// Bytes and their name.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// `sha256:…`.
    pub(super) digest: String,
    /// All of it.
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { digest: format!("sha256:{}", hex(&Sha256::digest(&bytes))), bytes }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A manifest or an index under a tag.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The tag.
    pub(super) tag: &'static str,
    /// One of [`KINDS`].
    pub(super) media_type: &'static str,
    /// Its bytes.
    pub(super) blob: Blob,
}

impl Document {
    fn new(tag: &'static str, media_type: &'static str, mut content: Value) -> Self {
        content["schemaVersion"] = json!(2);
        content["mediaType"] = json!(media_type);
        // With blanks, as nobody else would write it: bytes are to pass, not values.
        let bytes = format!("{content:#}\n").into_bytes();
        Self { tag, media_type, blob: Blob::new(bytes) }
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = self.blob.descriptor(self.media_type);
        descriptor["platform"] = json!({"architecture": "amd64", "os": "linux"});
        descriptor
    }
}

/// Everything that was pushed.
#[derive(Clone, Debug)]
pub(super) struct Fixture {
    /// A layer.
    pub(super) layer: Blob,
    /// A configuration.
    pub(super) config: Blob,
    /// A blob without a byte.
    pub(super) empty: Blob,
    /// One document of each kind.
    pub(super) documents: Vec<Document>,
}

impl Fixture {
    /// Makes it; pushes nothing.
    pub(super) fn new() -> Self {
        let blocks = (0u64..).flat_map(|n| <[u8; 32]>::from(Sha256::digest(n.to_le_bytes())));
        let layer = Blob::new(blocks.take(LAYER_BYTES).collect());
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            "history": [{"created_by": "conformance"}],
        });
        let config = Blob::new(config.to_string().into_bytes());
        let empty = Blob::new(Vec::new());
        let oci = json!({
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        });
        let docker = json!({
            "config": config.descriptor("application/vnd.docker.container.image.v1+json"),
            "layers": [layer.descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")],
        });
        let oci = Document::new("oci", OCI, oci);
        let docker = Document::new("docker", DOCKER, docker);
        let index = json!({"manifests": [oci.descriptor()]});
        let index = Document::new("index", OCI_INDEX, index);
        let list = json!({"manifests": [docker.descriptor()]});
        let list = Document::new("list", DOCKER_LIST, list);
        Self { layer, config, empty, documents: vec![oci, docker, index, list] }
    }

    /// Pushes it, as the specification's section "Push" says: POST, then PUT.
    pub(super) fn push(&self, registry: SocketAddr) -> Result<()> {
        for blob in [&self.layer, &self.config, &self.empty] {
            let begin = format!("/v2/{NAME}/blobs/uploads/");
            let begun = http::send(registry, "POST", &begin, &[], b"")?;
            let location = begun.header("location").context("an upload without a place")?;
            let path = location.find("/v2/").map_or(location, |at| &location[at..]);
            let mark = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{mark}digest={}", blob.digest);
            let kind = [("Content-Type", "application/octet-stream")];
            let put = http::send(registry, "PUT", &path, &kind, &blob.bytes)?;
            ensure!(put.status == 201, "pushing a blob gets {}", put.head);
        }
        let put = |document: &Document, tag: &str| {
            let path = format!("/v2/{NAME}/manifests/{tag}");
            let kind = [("Content-Type", document.media_type)];
            let put = http::send(registry, "PUT", &path, &kind, &document.blob.bytes)?;
            ensure!(put.status == 201, "pushing {tag} gets {}", put.head);
            Ok(())
        };
        // An index comes after what it names.
        self.documents.iter().try_for_each(|document| put(document, document.tag))?;
        put(self.index(), &self.referrers_tag())
    }

    /// The index.
    pub(super) fn index(&self) -> &Document {
        &self.documents[2]
    }

    /// The tag under which a registry that knows no referrers has those of the first document; here
    /// it is the index.
    pub(super) fn referrers_tag(&self) -> String {
        self.documents[0].blob.digest.replace(':', "-")
    }
}
