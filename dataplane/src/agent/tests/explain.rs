//! What a node tells of the last pull of an image.

use serde_json::{Value, json};

use super::paper::{Bench, Page, PaperServer, Setup, digest};
use super::requests::image;
use crate::link::{FlowProgress, Lost, Report, ToCold, ToHot};

async fn explained(bench: &Bench, query: &str) -> (u16, Value) {
    let answer = bench.ask(&format!("GET /xylem/v1/images{query}"), "").await;
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[test]
fn a_pull_is_explained_from_its_tag_to_its_last_byte() {
    let (config, layer) = (b"config".as_slice(), b"a layer".as_slice());
    let manifest = image(config, &[layer]);
    let (named, blob) = (digest(manifest.as_bytes()), digest(layer));
    let json = manifest.clone();
    let server = PaperServer::start(move |_| Page::manifest(&json));
    let host = server.address;
    Setup::registry(&server).run(async |bench| {
        let by_name = format!("?ns={host}&name=a/b&reference=v1");
        let (status, unknown) = explained(bench, &by_name).await;
        assert_eq!(status, 404);
        let message = unknown["errors"][0]["message"].as_str().unwrap();
        assert_eq!(message, "no pull of a/b:v1 on this node is remembered");

        bench.ask("GET /v2/a/b/manifests/v1", "").await;
        bench.want(blob, "");
        assert!(matches!(bench.next_else().await, ToHot::Fetch { .. }));
        assert!(matches!(bench.next_else().await, ToHot::File { .. }));
        let progress = FlowProgress {
            digest: blob,
            received_bytes: 3,
            edges: [3; 2],
            stored_bytes: 0,
            size_bytes: 7,
            readers: 2,
            first_byte_ns: crate::clock::monotonic_ns(),
            upstream: "registry".into(),
        };
        bench.tell(ToCold::Report(Box::new(Report { flows: vec![progress], ..Report::default() })));
        bench.lose(blob, 0, 4, Lost::Short);
        assert!(matches!(bench.next_else().await, ToHot::Source { .. }));
        bench.write(blob, layer);
        bench.tell(ToCold::Stored { digest: blob, size: 7, first_byte_ns: 1, readers: 0 });
        assert!(matches!(bench.next_else().await, ToHot::Committed { .. }));

        let (status, told) = explained(bench, &by_name).await;
        assert_eq!((status, &told["tree"]), (200, &Value::Null), "{told}");
        let pull = &told["pull"];
        assert_eq!((&pull["image"], &pull["tag"]), (&json!(named.to_string()), &json!("v1")));
        assert_eq!((&pull["asked_by"], &pull["state"]), (&json!("runtime"), &json!("partial")));
        assert_eq!(pull["parents"], json!(["registry"]));
        let of_layer = &pull["blobs"][1];
        assert_eq!((&of_layer["retries"], &of_layer["readers"]), (&json!(1), &json!(2)), "{told}");
        assert_eq!(of_layer["sources"][0]["lost"], "upstream ended the body early");
        assert_eq!(of_layer["registry_bytes"], 7);
        assert!(of_layer["first_byte_ms"].as_f64().unwrap() > 0.0, "{told}");
        assert_eq!(explained(bench, &format!("/{named}")).await.1["pull"]["blobs"], pull["blobs"]);
        for (bad, status) in [("/x", 400), ("?name=A", 404), ("", 400), ("x", 404)] {
            assert_eq!(explained(bench, bad).await.0, status, "{bad}");
        }
    });
}
