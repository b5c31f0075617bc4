//! A control process that does not answer: who waits for it, and until when.

use xylem_protocol::{Digest, pb};

use super::control::PaperControl;
use super::flows::{fetched, nowhere, plain};
use super::paper::{Bench, PATIENCE, Setup, digest};

async fn upstream_of(bench: &Bench, blob: Digest, image: Digest) -> String {
    bench.want(blob, &format!("Xylem-Image: {image}\r\n"));
    plain(fetched(bench).await).0
}

/// Waits until the node's status says of control what it should.
async fn until(bench: &Bench, what: &str) {
    let said = async { while !bench.ask("GET /xylem/v1/status", "").await.body.contains(what) {} };
    tokio::time::timeout(PATIENCE, said).await.expect(what);
}

/// The first image waits in vain, the second one not at all: control answers at once then, and yet
/// too late. After any answer it is waited for again.
#[test]
fn a_control_that_owes_an_answer_is_not_waited_for() {
    let control = PaperControl::start(&[("n1", "10.0.0.1:1")]);
    control.fall_silent(true);
    let server = nowhere();
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    setup.run(async |bench| {
        until(bench, "\"connected\":true").await;
        until(bench, "\"stalled\":false").await;
        let images = [b"first ", b"second", b"third "].map(|name| digest(name));
        assert_eq!(upstream_of(bench, digest(b"1"), images[0]).await, "registry");
        until(bench, "\"stalled\":true").await;
        control.fall_silent(false);
        assert_eq!(upstream_of(bench, digest(b"2"), images[1]).await, "registry");
        until(bench, "\"stalled\":false").await;
        assert_eq!(upstream_of(bench, digest(b"3"), images[2]).await, "n1");
    });
}

/// A blob that has begun at the registry has a source for each stripe when the late answer names
/// them.
#[test]
fn a_late_answer_moves_what_has_begun_at_the_registry() {
    let control = PaperControl::start(&[]);
    control.fall_silent(true);
    let server = nowhere();
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    setup.run(async |bench| {
        until(bench, "\"connected\":true").await;
        let (blob, image) = (digest(b"x"), digest(b"image"));
        // A child's stripe tells that the blob is worth two sources.
        let line = format!("GET /v2/a/b/blobs/{blob}?stripe=0/2");
        let request = super::paper::request(&line, &format!("Xylem-Image: {image}\r\n"));
        bench.tell(crate::link::ToCold::Want { digest: blob, request: Box::new(request) });
        assert_eq!(plain(fetched(bench).await).0, "registry");
        let peer = pb::Peer { node: "n1".into(), address: "10.0.0.1:1".into() };
        let branches = [vec![peer], vec![]].map(|upstreams| pb::Branch { upstreams }).to_vec();
        let image = image.to_string();
        control.assign(pb::Assignment { image, epoch: 2, branches, group: 7, at_once: false });
        let split = bench.next().await;
        let crate::link::ToHot::Split { digest, .. } = split else { panic!("not {split:?}") };
        assert_eq!(digest, blob);
    });
}
