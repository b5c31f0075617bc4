//! Rows of "Pulling blobs": whole blobs, parts of them, and those that are not there.

use super::fixture::{Fixture, NAME};
use super::manifests::NOTHING;
use super::row::{ANY, Row};

const PULL: &str = "Pulling blobs";
const RANGE: &str = "Pulling blobs, RFC 9110 14";
const EXISTS: &str = "Checking if content exists";

/// All of them.
pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = whole(fixture);
    rows.extend(absent());
    rows.extend(parts(fixture));
    rows.extend(odd_ranges(fixture));
    rows.extend(conditions(fixture));
    rows
}

fn path(digest: &str) -> String {
    format!("/v2/{NAME}/blobs/{digest}")
}

fn whole(fixture: &Fixture) -> Vec<Row> {
    let blob = |what, blob: &super::fixture::Blob, methods| {
        Row::get(PULL, what, &path(&blob.digest)).content(&blob.bytes).by(methods)
    };
    let escaped = path(&fixture.layer.digest.replace(':', "%3A"));
    vec![
        // First of all, while the node knows nothing of it.
        blob("HEAD before any GET", &fixture.layer, &["HEAD"]),
        blob("layer", &fixture.layer, &["GET", "HEAD"]),
        blob("configuration", &fixture.config, &["GET", "HEAD"]),
        blob("empty blob", &fixture.empty, &["GET", "HEAD"]),
        Row::get(PULL, "digest with its colon as %3A", &escaped)
            .content(&fixture.layer.bytes)
            .and_head(),
        Row::get(PULL, "with a query", &format!("{}?x=y", path(&fixture.layer.digest)))
            .content(&fixture.layer.bytes)
            .and_head(),
        Row::get(PULL, "in Expect of a 100", &path(&fixture.config.digest))
            .header("Expect: 100-continue")
            .content(&fixture.config.bytes),
    ]
}

fn absent() -> Vec<Row> {
    let unknown =
        |what, path: &str| Row::get(EXISTS, what, path).error(404, "BLOB_UNKNOWN").and_head();
    let malformed = |what, digest: &str| {
        Row::get(PULL, what, &path(digest)).error(400, "DIGEST_INVALID").and_head()
    };
    vec![
        unknown("unknown blob", &path(NOTHING)),
        unknown("unknown blob of an unknown name", &format!("/v2/no/such/blobs/{NOTHING}")),
        malformed("digest too short", "sha256:short"),
        malformed("digest in capitals", &NOTHING.replace('0', "A")),
        malformed("digest of MD5", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        malformed("no digest at all", "latest").registry_departs(
            ANY,
            "it answers 404 in a text that is no error of the specification",
        ),
        malformed("digest of SHA-512", &format!("sha512:{}", "0".repeat(128)))
            .by_design(ANY, "a node cannot check what is no SHA-256: the client asks the registry"),
    ]
}

fn ranged(fixture: &Fixture, range: &str) -> Row {
    Row::get(RANGE, format!("Range: {range}"), &path(&fixture.layer.digest))
        .header(format!("Range: {range}"))
}

fn parts(fixture: &Fixture) -> Vec<Row> {
    let bytes = &fixture.layer.bytes;
    let size = bytes.len();
    let part = |range: &str, first: usize, end: usize| {
        ranged(fixture, range).status(206).content(&bytes[first..end])
    };
    let beyond = |range: &str| {
        ranged(fixture, range).error(416, "RANGE_INVALID").registry_departs(
            &["code"],
            "its text is no error of the specification, and its length is that of the blob",
        )
    };
    vec![
        part("bytes=0-0", 0, 1),
        part("bytes=0-99", 0, 100),
        part("bytes=1000000-2000000", 1_000_000, 2_000_001),
        part("bytes= 5-9", 5, 10),
        part("bytes=-7", size - 7, size),
        part(&format!("bytes=-{}", size * 2), 0, size),
        part("bytes=0-", 0, size),
        part(&format!("bytes={}-", size - 1), size - 1, size),
        part(&format!("bytes={}-{}", size - 10, size * 2), size - 10, size),
        beyond(&format!("bytes={size}-")),
        beyond(&format!("bytes={size}-{}", size + 1)),
        Row::get(RANGE, "Range: bytes=0- of an empty blob", &path(&fixture.empty.digest))
            .header("Range: bytes=0-")
            .error(416, "RANGE_INVALID")
            .registry_departs(&["code"], "its text is no error of the specification"),
    ]
}

fn odd_ranges(fixture: &Fixture) -> Vec<Row> {
    let bytes = &fixture.layer.bytes;
    let huge = "99999999999999999999";
    let malformed = |range: &str| {
        ranged(fixture, range).error(416, "RANGE_INVALID").registry_departs(
            &["code"],
            "its text is no error of the specification, and its length is that of the blob",
        )
    };
    let ignored = |range: &str| ranged(fixture, range).content(bytes);
    vec![
        malformed("bytes=x"),
        malformed("bytes=5-2"),
        malformed("bytes=-"),
        malformed("bytes"),
        malformed("bytes=").by_design(ANY, "no range is a malformed one; the registry ignores it"),
        malformed("bytes=-0")
            .registry_departs(ANY, "it answers 206 with a part that ends before it begins"),
        malformed(&format!("bytes={huge}-")).registry_departs(
            &["code", "content-range"],
            "its numbers end at 64 bits, and its text is no error of the specification",
        ),
        ranged(fixture, &format!("bytes=2999990-{huge}"))
            .status(206)
            .content(&bytes[2_999_990..])
            .registry_departs(ANY, "its numbers end at 64 bits"),
        ranged(fixture, "BYTES=0-1")
            .status(206)
            .content(&bytes[..2])
            .registry_departs(ANY, "units have any case (14.1)"),
        ignored("items=0-1").registry_departs(ANY, "an unknown unit has to be ignored (14.2)"),
        ignored("bytes=0-1,5-6")
            .by_design(ANY, "a list gets the whole blob, as 14.2 allows; no puller sends one"),
        ignored("bytes=0-1")
            .header("Range: bytes=4-5")
            .by_design(ANY, "two lines are a list; the registry takes the first"),
        Row::get(RANGE, "HEAD with a range", &path(&fixture.layer.digest))
            .header("Range: bytes=0-1")
            .content(bytes)
            .by(&["HEAD"])
            .registry_departs(ANY, "only GET has ranges (14.2)"),
    ]
}

fn conditions(fixture: &Fixture) -> Vec<Row> {
    let blob = &fixture.layer;
    let row = |what| Row::get("Pulling blobs, RFC 9110 13", what, &path(&blob.digest));
    let tag = format!("\"{}\"", blob.digest);
    vec![
        row("the entity tag that it has")
            .header(format!("If-None-Match: {tag}"))
            .status(304)
            .and_head(),
        row("a range if it is the same")
            .header(format!("If-Range: {tag}"))
            .header("Range: bytes=0-1")
            .status(206)
            .content(&blob.bytes[..2]),
        row("a range if it is another")
            .header("If-Range: \"x\"")
            .header("Range: bytes=0-1")
            .content(&blob.bytes),
    ]
}
