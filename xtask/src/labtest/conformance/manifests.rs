//! Rows of "Determining Support" and "Pulling manifests".

use super::fixture::{Document, Fixture, KINDS, NAME};
use super::row::{ANY, Row};

const SUPPORT: &str = "Determining Support";
const PULL: &str = "Pulling manifests";
const EXISTS: &str = "Checking if content exists";
/// A digest that nothing has.
pub(super) const NOTHING: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// All of them.
pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = support();
    for document in &fixture.documents {
        for accept in Accept::all(document.media_type) {
            rows.push(by_tag(document, &accept));
            rows.push(by_digest(document, &accept));
        }
    }
    rows.extend(unknown());
    rows.extend(conditions(&fixture.documents[0]));
    rows
}

fn support() -> Vec<Row> {
    vec![
        Row::get(SUPPORT, "/v2/", "/v2/")
            .and_head()
            .by_design(&["body", "content-length"], "a line of JSON ends with a line end"),
        Row::get(SUPPORT, "/v2 without its slash", "/v2")
            .and_head()
            .by_design(ANY, "answered at once; the registry redirects to /v2/"),
    ]
}

/// What a client says it can read.
#[derive(Clone, Debug)]
struct Accept {
    name: String,
    lines: Vec<String>,
    /// Which of [`KINDS`] it names.
    kinds: Vec<&'static str>,
    /// It names none of them, and excludes none.
    anything: bool,
}

impl Accept {
    /// Every form, the document's own kind first.
    fn all(own: &'static str) -> Vec<Self> {
        let line = |value: &str| format!("Accept: {value}");
        let some = |name: String, lines, kinds| Self { name, lines, kinds, anything: false };
        let any = |name: &str, lines| {
            let name = name.to_owned();
            Self { name, lines, kinds: Vec::new(), anything: true }
        };
        let mut forms = vec![
            any("no Accept", Vec::new()),
            any("*/*", vec![line("*/*")]),
            some("its kind alone".to_owned(), vec![line(own)], vec![own]),
            some("all kinds in one line".to_owned(), vec![line(&KINDS.join(", "))], KINDS.to_vec()),
            some(
                "all kinds, a line each".to_owned(),
                KINDS.iter().map(|kind| line(kind)).collect(),
                KINDS.to_vec(),
            ),
        ];
        for other in KINDS.into_iter().filter(|kind| *kind != own) {
            let name = format!("only {}", short(other));
            forms.push(some(name, vec![line(other)], vec![other]));
        }
        forms
    }
}

/// A media type without what all of them begin and end with.
fn short(media_type: &str) -> &str {
    let name = media_type.trim_start_matches("application/vnd.");
    name.trim_end_matches("+json")
}

fn with_accept(mut row: Row, accept: &Accept) -> Row {
    row.headers.extend(accept.lines.iter().cloned());
    row.and_head()
}

/// The registry tells only those who name the kind of an OCI document that it is there, and gives
/// others a translation of a Docker one.
fn by_tag(document: &Document, accept: &Accept) -> Row {
    let path = format!("/v2/{NAME}/manifests/{}", document.tag);
    let what = format!("tag of {}, {}", short(document.media_type), accept.name);
    let row = with_accept(Row::get(PULL, what, &path), accept);
    let content = row.clone().content(&document.blob.bytes);
    if accept.kinds.contains(&document.media_type) {
        return content;
    }
    let is_docker = document.tag == "docker" || document.tag == "list";
    match (accept.anything, is_docker) {
        (true, true) => content.registry_departs(
            ANY,
            "it translates to schema 1, which no digest names; the node asks for all kinds",
        ),
        (true, false) => content.registry_departs(
            ANY,
            "it hides OCI documents from those who do not name them; the node asks for all kinds",
        ),
        (false, true) if document.tag == "list" && accept.name.ends_with("manifest.v2") => {
            // The manifest for this platform, which the client asked for.
            row
        }
        (false, true) => row.error(404, "MANIFEST_UNKNOWN").by_design(
            ANY,
            "the registry translates to schema 1, which no digest names: the client asks it itself",
        ),
        (false, false) => row.error(404, "MANIFEST_UNKNOWN"),
    }
}

fn by_digest(document: &Document, accept: &Accept) -> Row {
    let path = format!("/v2/{NAME}/manifests/{}", document.blob.digest);
    let what = format!("digest of {}, {}", short(document.media_type), accept.name);
    let row = Row::get(PULL, what, &path).content(&document.blob.bytes);
    let row = with_accept(row, accept);
    let is_docker = document.tag == "docker" || document.tag == "list";
    if is_docker || accept.kinds.contains(&document.media_type) {
        return row;
    }
    row.registry_departs(ANY, "it hides what the digest names from those who do not name its kind")
}

fn unknown() -> Vec<Row> {
    let manifest = |name: &str, reference: &str| format!("/v2/{name}/manifests/{reference}");
    let accept = format!("Accept: {}", KINDS.join(", "));
    let row = |section, what: &str, path: String| {
        Row::get(section, what, &path).header(accept.clone()).and_head()
    };
    let unknown = |what, path| row(EXISTS, what, path).error(404, "MANIFEST_UNKNOWN");
    let malformed = |what, reference: &str| {
        row(PULL, what, manifest(NAME, reference)).error(400, "DIGEST_INVALID")
    };
    let not_routed = "it says so in a text that is no error of the specification";
    let fails = "it answers 500 for its client's mistake";
    vec![
        unknown("unknown name", manifest("no/such", "x")),
        unknown("unknown tag", manifest(NAME, "no-such")),
        unknown("unknown digest", manifest(NAME, NOTHING)),
        unknown("tag that begins with -", manifest(NAME, "-x"))
            .registry_departs(&["code"], not_routed),
        unknown("tag of 129 characters", manifest(NAME, &"x".repeat(129)))
            .registry_departs(&["code"], not_routed),
        malformed("digest too short", "sha256:short").registry_departs(ANY, fails),
        malformed("digest in capitals", &NOTHING.replace('0', "A")).registry_departs(ANY, fails),
        malformed("digest of MD5", "md5:d41d8cd98f00b204e9800998ecf8427e")
            .registry_departs(ANY, fails),
        malformed("digest of SHA-512", &format!("sha512:{}", "0".repeat(128)))
            .by_design(ANY, "a node cannot check what is no SHA-256: the client asks the registry"),
    ]
}

fn conditions(document: &Document) -> Vec<Row> {
    let path = format!("/v2/{NAME}/manifests/{}", document.tag);
    let row = |what| {
        let accept = format!("Accept: {}", document.media_type);
        Row::get(PULL, what, &path).header(accept).and_head()
    };
    let tag = format!("If-None-Match: \"{}\"", document.blob.digest);
    vec![
        row("a range, which only blobs have")
            .header("Range: bytes=0-1")
            .content(&document.blob.bytes),
        row("the entity tag that it has").header(tag).status(304),
        row("another entity tag").header("If-None-Match: \"x\"").content(&document.blob.bytes),
    ]
}
