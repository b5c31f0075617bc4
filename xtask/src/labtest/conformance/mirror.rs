//! Rows of what makes a node a mirror of some registries and not of all: `ns=`, a registry before
//! the name, a blob under another name, referrers.

use std::net::SocketAddr;

use super::fixture::{Fixture, KINDS, NAME};
use super::manifests::NOTHING;
use super::modern;
use super::row::{ANY, Row};

const NAMESPACE: &str = "not of the specification, ns=";
const PREFIX: &str = "not of the specification, REGISTRY/NAME";
const REFERRERS: &str = "Listing Referrers";

/// Whom a node answers for.
pub(super) fn registries(fixture: &Fixture, registry: SocketAddr) -> Vec<Row> {
    let document = &fixture.documents[0];
    let manifest =
        |name: &str, query: &str| format!("/v2/{name}/manifests/{}{query}", document.tag);
    let accept = format!("Accept: {}", KINDS.join(", "));
    let row = |section, what: &str, path: String| {
        Row::get(section, what, &path).header(accept.clone()).and_head()
    };
    let ns = |what, value: &str| row(NAMESPACE, what, manifest(NAME, &format!("?ns={value}")));
    let denied = |row: Row| {
        row.error(403, "DENIED").by_design(ANY, "a node answers for its own registries alone")
    };
    let ignored = "the registry reads no ns=";
    let own = registry.to_string().replace(':', "__");
    let layer = &fixture.layer;
    vec![
        ns("the node's own registry", &registry.to_string()).content(&document.blob.bytes),
        ns("its colon as %3A", &registry.to_string().replace(':', "%3A"))
            .content(&document.blob.bytes),
        denied(ns("another registry", "registry.example.com")),
        denied(ns("the same host, another port", &format!("{}:1", registry.ip()))),
        denied(ns("a host of nobody", "localhost")),
        ns("no host", "a/b").error(400, "NAME_INVALID").by_design(ANY, ignored),
        ns("an address with a user", "u@h").error(400, "NAME_INVALID").by_design(ANY, ignored),
        ns("300 characters", &"a".repeat(300)).error(400, "NAME_INVALID").by_design(ANY, ignored),
        row(PREFIX, "the node's own registry", manifest(&format!("{own}/{NAME}"), ""))
            .content(&document.blob.bytes)
            .by_design(ANY, "how podman names the registry"),
        // Of the only registry there is, a repository may be called like a host.
        row(PREFIX, "another registry", manifest("registry.example.com/a", ""))
            .error(404, "MANIFEST_UNKNOWN"),
        row(
            "Checking if content exists",
            "a blob under a name that has it not",
            format!("/v2/no/such/blobs/{}", layer.digest),
        )
        .error(404, "BLOB_UNKNOWN"),
        row(
            NAMESPACE,
            "a blob of another registry",
            format!("/v2/{NAME}/blobs/{}?ns=registry.example.com", layer.digest),
        )
        .error(403, "DENIED")
        .by_design(ANY, "a node answers for its own registries alone"),
    ]
}

/// Referrers of a registry that has them.
pub(super) fn referrers() -> Vec<Row> {
    let row = |what: &str, rest: &str| {
        Row::get(REFERRERS, what, &format!("/v2/{}/referrers/{rest}", modern::NAME))
    };
    let filter = modern::ARTIFACT.replace('/', "%2F");
    vec![
        row("two referrers", NOTHING),
        row("with a filter", &format!("{NOTHING}?artifactType={}", modern::ARTIFACT)),
        row("with an escaped filter", &format!("{NOTHING}?artifactType={filter}")),
        row("with a filter that nothing fits", &format!("{NOTHING}?artifactType=a")),
        row("of what has none", &NOTHING.replace('0', "2")),
        row("of a malformed digest", "latest").error(400, "DIGEST_INVALID"),
    ]
}
