//! Pulls that control asks for.

use xylem_protocol::pb;
use xylem_protocol::pb::node_message::Kind;

use super::control::PaperControl;
use super::paper::{Bench, Setup, digest};
use super::requests::{fetch_all, image, registry_of};

fn order(id: u64, reference: &str, platforms: &[&str]) -> pb::Preheat {
    let platforms = platforms.iter().map(|&platform| platform.to_owned()).collect();
    pb::Preheat {
        id,
        registry: String::new(),
        name: "a/b".into(),
        reference: reference.into(),
        platforms,
    }
}

/// What control hears of a preheat when it has ended; the hot half does its part meanwhile.
async fn ended(
    bench: &Bench,
    control: &PaperControl,
    blobs: &[&[u8]],
    id: u64,
) -> pb::PreheatProgress {
    loop {
        tokio::select! {
            said = control.hears() => match said {
                Kind::Preheat(progress)
                    if progress.id == id && progress.state() != pb::PreheatState::Running =>
                {
                    return progress;
                }
                _ => {}
            },
            message = bench.next() => fetch_all(bench, blobs, &message),
        }
    }
}

#[test]
fn a_preheat_is_a_pull_that_control_hears_of() {
    let blobs: [&[u8]; 2] = [b"config", b"a layer"];
    let manifest = image(blobs[0], &[blobs[1]]);
    let named = digest(manifest.as_bytes());
    let server = registry_of(&manifest);
    // The second is the same pull, the third has nothing left to do but to look.
    let orders = vec![order(7, "v1", &[]), order(7, "v1", &[]), order(8, "v1", &[])];
    let control = PaperControl::start_with(&[], orders);
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    setup.run(async |bench| {
        for id in [7, 8] {
            let told = ended(bench, &control, &blobs, id).await;
            assert_eq!((told.state(), told.error.as_str()), (pb::PreheatState::Done, ""));
            assert_eq!((told.done_bytes, told.total_bytes), (13, 13));
            assert_eq!(told.images, [named.to_string()]);
        }
        let told = loop {
            if let Kind::Complete(told) = control.hears().await {
                break told;
            }
        };
        assert_eq!(told.image, named.to_string(), "others can be sent here for it");
        let pulls = bench.ask("GET /xylem/v1/pulls/2", "").await;
        assert_eq!(pulls.status, 404, "one pull for all");
        let answer = bench.ask(&format!("GET /xylem/v1/images/{named}"), "").await;
        assert!(answer.body.contains("\"asked_by\":\"preheat\""), "{}", answer.body);
    });
}

#[test]
fn a_preheat_that_cannot_be_says_why() {
    let server = registry_of(&image(b"config", &[]));
    let orders = vec![order(1, "v2", &[]), order(2, "v1", &["linux"]), order(3, "v1", &["a/b"; 9])];
    let control = PaperControl::start_with(&[], orders);
    let setup = Setup { control: Some(control.address), ..Setup::registry(&server) };
    setup.run(async |_| {
        let mut reasons = Vec::new();
        while reasons.len() < 3 {
            if let Kind::Preheat(told) = control.hears().await
                && told.state() != pb::PreheatState::Running
            {
                assert_eq!(told.state(), pb::PreheatState::Failed);
                reasons.push((told.id, told.error));
            }
        }
        reasons.sort();
        for ((_, reason), expected) in
            reasons.iter().zip(["has no a/b:v2", "is no platform", "9 platforms, at most 8"])
        {
            assert!(reason.contains(expected), "{reason}");
        }
    });
}
