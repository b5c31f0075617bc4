//! Rows of "Content Discovery": tags and referrers.

use super::fixture::{Fixture, NAME};
use super::manifests::NOTHING;
use super::modern;
use super::row::{ANY, Row};

const TAGS: &str = "Listing Tags";
const REFERRERS: &str = "Listing Referrers";

/// Those that Debian's registry can be asked.
pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let tags = |query: &str| {
        Row::get(TAGS, format!("tags{query}"), &format!("/v2/{NAME}/tags/list{query}"))
    };
    let referrers =
        |what: &str, rest: &str| Row::get(REFERRERS, what, &format!("/v2/{NAME}/referrers/{rest}"));
    let image = &fixture.documents[0].blob.digest;
    let no_pages = "the registry knows no pages";
    let unsupported = "neither has any, and a client goes on with the tag schema; the words differ";
    vec![
        tags("").noted("the registry sorts nothing"),
        tags("?n=1").noted(no_pages),
        tags("?n=2&last=docker").noted(no_pages),
        tags("?n=0").noted(no_pages),
        tags("?n=x").noted(no_pages),
        Row::get(TAGS, "tags of an unknown name", "/v2/no/such/tags/list")
            .error(404, "NAME_UNKNOWN"),
        tags("").by(&["HEAD"]).by_design(ANY, "HEAD is a GET without its body (RFC 9110 9.3.2)"),
        referrers("referrers, not supported", image).status(404).by_design(&["code"], unsupported),
        referrers("with a filter", &format!("{image}?artifactType=a/b"))
            .status(404)
            .by_design(&["code"], unsupported),
        referrers("of an unknown digest", NOTHING).status(404).by_design(&["code"], unsupported),
        Row::get(
            "Unavailable Referrers API",
            "the tag schema",
            &format!("/v2/{NAME}/manifests/{}", fixture.referrers_tag()),
        )
        .header(format!("Accept: {}", fixture.index().media_type))
        .content(&fixture.index().blob.bytes)
        .and_head(),
    ]
}

/// Those that only a registry with pages can be asked.
pub(super) fn paged() -> Vec<Row> {
    let tags = |name: &str, query: &str| {
        Row::get(TAGS, format!("tags of {name}{query}"), &format!("/v2/{name}/tags/list{query}"))
    };
    let mut rows: Vec<Row> = ["", "?n=2", "?n=2&last=b", "?n=2&last=c", "?n=0", "?n=9", "?last=zz"]
        .map(|query| tags(modern::NAME, query))
        .into();
    rows.push(
        tags(modern::ABSOLUTE, "?n=2")
            .by_design(&["link"], "a link to the registry itself leads to the node's own page"),
    );
    rows
}
