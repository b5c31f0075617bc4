//! Whom a blob is asked of next where its source was lost.

use xylem_protocol::pb;

use super::control::PaperControl;
use super::flows::{fetched, next_source, nowhere, plain, refused};
use super::paper::{Page, PaperServer, Setup, digest};
use crate::link::{Lost, ToCold, ToHot};

/// Where a source was lost, the next peer has a moment only: it may be waiting itself.
#[test]
fn a_peer_that_brings_nothing_either_is_left_for_the_registry() {
    let alive = PaperServer::start(|_| Page::new(200, ""));
    let address = alive.address.to_string();
    let control = PaperControl::start(&[("n1", &address), ("n2", &address)]);
    let setup = Setup { control: Some(control.address), ..Setup::registry(&nowhere()) };
    let image = digest(b"image");
    setup.run(async |bench| {
        assert!(matches!(control.hears().await, pb::node_message::Kind::Hello(_)));
        let blob = digest(b"x");
        let silent = |attempt| ToCold::Silent { digest: blob, attempt, late: true };
        let gives_up = async |expected: u32| match bench.next_else().await {
            ToHot::GiveUp { digest, attempt, moved: false } => {
                assert_eq!((digest, attempt), (blob, expected));
            }
            other => panic!("it waits, and {other:?}"),
        };
        bench.want(blob, &format!("Xylem-Image: {image}\r\n"));
        assert_eq!(plain(fetched(bench).await).0, "n1");
        bench.lose(blob, 0, 5, Lost::Short);
        assert_eq!(plain(next_source(bench).await.2).0, "n2");
        bench.tell(silent(1));
        gives_up(1).await;
        bench.lose(blob, 1, 5, Lost::Stalled(100));
        // The registry cannot be had: whom it left early it asks again, and waits.
        for attempt in 2..5 {
            assert_eq!(plain(next_source(bench).await.2).0, "registry");
            bench.lose(blob, attempt, 5, Lost::Short);
        }
        for (attempt, peer) in [(5, "n1"), (6, "n2")] {
            assert_eq!(plain(next_source(bench).await.2).0, peer);
            bench.tell(silent(attempt));
            bench.lose(blob, attempt, 5, Lost::Short);
        }
        assert_eq!(refused(bench).await.0, 502, "everybody was asked, and nobody a third time");
    });
}
