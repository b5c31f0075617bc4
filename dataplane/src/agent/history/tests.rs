//! What the history says of pulls, told step by step.

use xylem_protocol::stripe::STRIPE_BYTES;

use super::view::ImageView;
use super::*;

const S: u64 = 1_000_000_000;

fn digest(number: u16) -> Digest {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(bytes)
}

fn descriptor(number: u16, size: u64) -> Descriptor {
    Descriptor { digest: digest(number), size, media_type: String::new() }
}

fn image(blobs: &[(u16, u64)]) -> Document {
    Document::Image(blobs.iter().map(|&(number, size)| descriptor(number, size)).collect())
}

fn give(history: &mut History, number: u16, document: &Document, by: Asker, at_ns: u64) {
    let repository = "r.example/a".to_owned();
    history.given(Given { digest: digest(number), document, repository, by, at_ns });
}

fn view(history: &History, number: u16, held: &[u16]) -> serde_json::Value {
    let is_held = |blob: &Digest| held.iter().find(|n| digest(**n) == *blob).map(|_| 1);
    let view: ImageView =
        history.view(&digest(number), is_held, |_| Verdict::Sender, 100 * S).unwrap();
    serde_json::to_value(view).unwrap()
}

fn arc(name: &str) -> Arc<str> {
    Arc::from(name)
}

#[test]
fn a_pull_with_a_lost_parent() {
    let mut history = History::default();
    let index = Document::Index(vec![(descriptor(1, 10), None)]);
    history.named(digest(9), "r.example/a".into(), "v1");
    give(&mut history, 9, &index, Asker::Runtime, S);
    give(&mut history, 1, &image(&[(2, 100), (3, 50), (2, 100), (4, 1)]), Asker::Runtime, S);
    let one = digest(1);
    history.began(digest(2), 2 * S);
    history.asks(digest(2), Some(&one), Some(&arc("n1")), &arc("n1"), (None, 20));
    history.moved(&digest(2), (60, [60; 2]), 3, 2 * S + S / 2);
    let running = view(&history, 1, &[3]);
    assert_eq!((&running["state"], &running["end_ns"]), (&"running".into(), &().into()));
    history.lost(&digest(2), (None, 70), "broke\nagain");
    history.asks(digest(2), Some(&one), Some(&arc("n2")), &arc(REGISTRY), (None, 70));
    history.asks(digest(2), Some(&one), Some(&arc("n2")), &arc(REGISTRY), (None, 70));
    history.done(&digest(2), 100, (2 * S + S / 2, 1), Verdict::Network, 4 * S);
    history.began(digest(4), 3 * S);
    history.failed(digest(4), "nobody has it", 5 * S);

    let told = view(&history, 1, &[2, 3]);
    for (key, expected) in [("name", "r.example/a"), ("tag", "v1"), ("asked_by", "runtime")] {
        assert_eq!(told[key], expected, "{told}");
    }
    assert_eq!(told["index"], digest(9).to_string());
    assert_eq!((&told["state"], &told["end_ns"]), (&"failed".into(), &(5 * S).into()));
    assert_eq!(told["parents"], serde_json::json!(["n1", "n2"]));
    let bytes = ["total_bytes", "peer_bytes", "registry_bytes", "disk_bytes"].map(|k| &told[k]);
    assert_eq!(bytes, [151, 50, 30, 70].map(serde_json::Value::from).each_ref());
    let blob = &told["blobs"][0];
    assert_eq!((&blob["state"], &blob["retries"]), (&"done".into(), &1.into()));
    assert_eq!((&blob["readers"], &blob["limited_by"]), (&3.into(), &"network".into()));
    let times = ["start_ms", "first_byte_ms", "seconds"].map(|key| blob[key].as_f64().unwrap());
    assert_eq!(times, [1000.0, 500.0, 2.0]);
    let sources = serde_json::json!([
        { "upstream": "n1", "from": 20, "bytes": 50, "lost": "broke again" },
        { "upstream": "registry", "from": 70, "bytes": 30, "lost": null },
    ]);
    assert_eq!(blob["sources"], sources);
    assert_eq!(
        (&told["blobs"][1]["state"], &told["blobs"][1]["disk_bytes"]),
        (&"here".into(), &50.into())
    );
    assert_eq!(told["blobs"][2]["error"], "nobody has it");
    assert_eq!(told["blobs"].as_array().unwrap().len(), 3, "each blob once");
}

#[test]
fn a_later_pull_finds_everything_here() {
    let mut history = History::default();
    let document = image(&[(2, 100)]);
    give(&mut history, 1, &document, Asker::Pull, S);
    history.began(digest(2), S);
    history.asks(digest(2), Some(&digest(1)), None, &arc("n1"), (None, 0));
    // A second request while it runs, and one soon after, are the same pull.
    give(&mut history, 1, &document, Asker::Runtime, 30 * S);
    history.done(&digest(2), 100, (0, 0), Verdict::Unknown, 31 * S);
    give(&mut history, 1, &document, Asker::Runtime, 39 * S);
    let told = view(&history, 1, &[2]);
    assert_eq!((&told["asked_by"], &told["peer_bytes"]), (&"pull".into(), &100.into()));
    // A node below does not hide what happened here.
    give(&mut history, 1, &document, Asker::Node("n7".into()), 60 * S);
    assert_eq!(view(&history, 1, &[2])["asked_by"], "pull");

    give(&mut history, 1, &document, Asker::Runtime, 61 * S);
    history.began(digest(2), 61 * S);
    history.present(&digest(2));
    let told = view(&history, 1, &[2]);
    assert_eq!((&told["state"], &told["asked_by"]), (&"done".into(), &"runtime".into()));
    assert_eq!((&told["peer_bytes"], &told["disk_bytes"]), (&0.into(), &100.into()));
    let blob = &told["blobs"][0];
    assert_eq!((&blob["state"], &blob["retries"]), (&"here".into(), &0.into()));
    assert_eq!(blob["sources"][0]["upstream"], "n1", "where it came from then");
    assert_eq!(view(&history, 1, &[])["state"], "partial", "deleted since, and not asked for");
}

#[test]
fn what_was_over_too_soon_is_limited_by_what_its_hop_is() {
    let mut history = History::default();
    let unit = u64::from(xylem_protocol::limits::UNIT_BYTES);
    give(&mut history, 1, &image(&[(2, unit), (3, unit - 1), (4, unit)]), Asker::Pull, S);
    for blob in [2, 3] {
        history.began(digest(blob), S);
        history.asks(digest(blob), None, None, &arc("n1"), (None, 0));
        history.done(&digest(blob), unit, (0, 2), Verdict::Unknown, 2 * S);
    }
    let told = view(&history, 1, &[2, 3, 4]);
    let limits = [0, 1, 2].map(|at| told["blobs"][at]["limited_by"].as_str().unwrap().to_owned());
    assert_eq!(limits, ["sender", "unknown", "unknown"], "too small, and fetched earlier");
    assert_eq!(told["blobs"][0]["readers"], 2);
}

#[test]
fn images_are_found_by_all_their_names() {
    let mut history = History::default();
    let index = Document::Index(vec![(descriptor(1, 10), None), (descriptor(2, 10), None)]);
    history.named(digest(9), "r.example/a".into(), "v1");
    history.named(digest(1), "r.example/other".into(), "v2");
    give(&mut history, 9, &index, Asker::Pull, S);
    give(&mut history, 1, &image(&[]), Asker::Pull, S);
    give(&mut history, 2, &image(&[]), Asker::Pull, 2 * S);
    let find = |repository: &str, target: &str| {
        history.find(repository, &target.parse().unwrap()).map(|found| found.as_bytes()[1])
    };
    assert_eq!(find("r.example/a", "v1"), Some(2), "the latest");
    assert_eq!(find("r.example/a", "v2"), None, "another repository's tag");
    assert_eq!(find("r.example/b", "v1"), None);
    assert_eq!(find("r.example/a", &digest(1).to_string()), Some(1));
    assert_eq!(find("r.example/a", &digest(9).to_string()), Some(2));
    assert_eq!(history.find_digest(&digest(9)), Some(digest(2)));
    assert_eq!(history.find_digest(&digest(7)), None);
}

#[test]
fn nothing_grows_without_bound() {
    let mut history = History::default();
    for number in 0..3 * u16::try_from(HISTORY_IMAGES_MAX).unwrap() {
        history.named(digest(number), "a".into(), "t");
        let blobs: Vec<(u16, u64)> = (0..200).map(|at| (1000 + 200 * number + at, 1)).collect();
        give(&mut history, number, &image(&blobs), Asker::Pull, u64::from(number));
    }
    let blobs: usize = history.images.iter().map(|(_, image)| image.blobs.len()).sum();
    assert!(history.images.len() <= HISTORY_IMAGES_MAX && blobs <= HISTORY_BLOBS_MAX, "{blobs}");
    for number in 0..6000 {
        history.began(digest(number), 1);
        history.asks(digest(number), None, None, &arc("n"), (None, 0));
    }
    assert_eq!(history.fetches.len(), HISTORY_BLOBS_MAX);
    let last = digest(5999);
    for at in 0..20 {
        history.asks(last, None, None, &arc(&format!("n{at}")), (None, at));
        history.lost(&last, (None, at), &"é".repeat(500));
    }
    let fetch = history.fetches.get(&last).unwrap();
    assert_eq!((fetch.origins.len(), fetch.forgotten), (HISTORY_SOURCES_MAX, 15));
    assert_eq!((&*fetch.origins[0].upstream, &*fetch.origins[5].upstream), ("n", "n19"));
    assert_eq!(fetch.origins[5].lost.as_ref().unwrap().len(), HISTORY_REASON_MAX);
    for number in 0..2000 {
        history.began(digest(10_000 + number), 1);
    }
    assert_eq!(history.starting.len(), usize::from(FLOWS_MAX));
}

#[test]
fn stripes_are_told_apart_and_add_up() {
    const PIECE: u64 = STRIPE_BYTES;
    let mut history = History::default();
    give(&mut history, 1, &image(&[(2, 9 * PIECE)]), Asker::Runtime, S);
    history.began(digest(2), S);
    let ask = |history: &mut History, name: &str, stripe, at| {
        history.asks(digest(2), Some(&digest(1)), None, &arc(name), (stripe, at));
    };
    ask(&mut history, REGISTRY, None, 0);
    history.moved(&digest(2), (PIECE, [PIECE; 2]), 0, 0);
    // From the middle of its third piece on, which is one of the first stripe.
    history.split(&digest(2), 5 * PIECE / 2);
    ask(&mut history, REGISTRY, Some(0), 5 * PIECE / 2);
    ask(&mut history, "n1", Some(1), 3 * PIECE);
    history.lost(&digest(2), (Some(1), 4 * PIECE), "broke");
    ask(&mut history, "n2", Some(1), 5 * PIECE);
    history.done(&digest(2), 9 * PIECE, (0, 0), Verdict::Unknown, 2 * S);
    let fetch = history.fetches.peek(&digest(2)).unwrap();
    let bytes: Vec<u64> = fetch.origins.iter().map(|origin| origin.to - origin.from).collect();
    assert_eq!(bytes, [5 * PIECE / 2, 7 * PIECE / 2, PIECE, 2 * PIECE]);
}
