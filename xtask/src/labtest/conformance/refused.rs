//! Rows of what a node refuses: everything that would change a registry, and names that are none.

use super::fixture::{KINDS, NAME};
use super::manifests::NOTHING;
use super::row::{ANY, Row};

/// All of them.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = pushes();
    rows.extend(names());
    rows
}

fn pushes() -> Vec<Row> {
    let mut rows = Vec::new();
    let body = b"not to be stored";
    for (section, what, methods, path) in [
        ("Push", "begin an upload", &["POST"][..], format!("/v2/{NAME}/blobs/uploads/")),
        ("Push", "mount", &["POST"], format!("/v2/{NAME}/blobs/uploads/?mount={NOTHING}&from=a")),
        ("Push", "an upload", &["PATCH", "PUT", "DELETE"], format!("/v2/{NAME}/blobs/uploads/x")),
        ("Push", "a manifest", &["PUT"], format!("/v2/{NAME}/manifests/pushed")),
        (
            "Content Management",
            "a manifest",
            &["DELETE"],
            format!("/v2/{NAME}/manifests/{NOTHING}"),
        ),
        ("Content Management", "a blob", &["DELETE"], format!("/v2/{NAME}/blobs/{NOTHING}")),
        ("Push", "to a name that is none", &["POST"], "/v2/A/blobs/uploads/".to_owned()),
    ] {
        let row = Row::get(section, what, &path).by(methods).sending(body);
        rows.push(
            row.error(405, "UNSUPPORTED")
                .by_design(ANY, "images are pulled from a node, and pushed to the registry"),
        );
    }
    let path = format!("/v2/{NAME}/blobs/uploads/x");
    rows.push(
        Row::get("Push", "status of an upload", &path)
            .error(404, "UNSUPPORTED")
            .by_design(&["code"], "a node has no uploads"),
    );
    rows.push(
        Row::get("not of the specification", "/v2/_catalog", "/v2/_catalog")
            .error(404, "UNSUPPORTED")
            .by_design(ANY, "an API of this registry alone; a node knows no list of names"),
    );
    rows
}

fn names() -> Vec<Row> {
    let invalid = |what: &str, name: &str| {
        let path = format!("/v2/{name}/manifests/oci");
        let row = Row::get("Pulling manifests, name", what, &path).error(400, "NAME_INVALID");
        row.header(format!("Accept: {}", KINDS[0])).and_head()
    };
    let moved = |what, name| {
        invalid(what, name).by_design(ANY, "refused as it stands; the registry redirects")
    };
    let unrouted = |what, name| {
        invalid(what, name).registry_departs(ANY, "404 in a text that is no error of its own")
    };
    let escaped = NAME.replacen('/', "%2F", 1);
    vec![
        moved("..", ".."),
        moved("a/../b", "a/../b"),
        moved("%2e%2e", "%2e%2e"),
        moved("a//b", "a//b"),
        moved("/a", "/a"),
        moved("a/./b", "a/./b"),
        unrouted("upper case", "UPPER"),
        unrouted("a..b", "a..b"),
        unrouted("a___b", "a___b"),
        unrouted("-a", "-a"),
        unrouted("a%00b", "a%00b"),
        invalid("a%zz", "a%zz").registry_departs(ANY, "a text that is no error of its own"),
        invalid("300 characters", &"a".repeat(300)).registry_departs(ANY, "it answers 500"),
        invalid("slash as %2F", &escaped).by_design(
            ANY,
            "an escaped slash is no separator (RFC 3986 2.2); the registry reads one",
        ),
    ]
}
