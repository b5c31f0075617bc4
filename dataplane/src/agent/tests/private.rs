//! Images that not everybody may have: the registry says who, and its words go through unchanged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use xylem_protocol::Digest;

use super::control::PaperControl;
use super::paper::{Answered, Bench, PATIENCE, Page, PaperServer, Setup, digest, status};
use super::requests::image;
use crate::link::{Source, ToHot};
use crate::store::{Store, kept_in};

const CHALLENGE: &str = "Bearer realm=\"https://auth.example/t\",service=\"r\",scope=\"s\"";
const WORDS: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in first"}]}"#;

/// A registry that gives `secret/app:v1` and its blobs to whoever brings the present token, and
/// `open/app` to everybody.
struct Private {
    server: PaperServer,
    token: Arc<Mutex<String>>,
    manifest: String,
}

impl Private {
    fn start() -> Self {
        let manifest = image(b"config", &[b"layer"]);
        let token = Arc::new(Mutex::new("Bearer good".to_owned()));
        let (json, present) = (manifest.clone(), token.clone());
        let server = PaperServer::start(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let allowed = format!("authorization: {}\r\n", present.lock().unwrap());
            let is_allowed = head.to_lowercase().contains(&allowed.to_lowercase());
            match path {
                _ if path.contains("/open/") && path.contains("/manifests/") => {
                    Page::manifest("{\"layers\":[]}")
                }
                _ if path.contains("/open/") => Page::new(404, ""),
                _ if !is_allowed => Page::new(401, WORDS)
                    .with("WWW-Authenticate", CHALLENGE)
                    .with("Content-Type", "application/json; charset=utf-8"),
                _ if path.contains("/manifests/") => Page::manifest(&json),
                _ if path.contains("/blobs/") => Page::new(200, "layer"),
                _ => Page::new(200, "{}"),
            }
        });
        Self { server, token, manifest }
    }

    fn run(&self, test: impl AsyncFnOnce(&Bench)) {
        Setup { checks: true, ..Setup::registry(&self.server) }.run(test);
    }

    fn digest(&self) -> Digest {
        digest(self.manifest.as_bytes())
    }
}

const GOOD: &str = "Authorization: Bearer good\r\n";
const BAD: &str = "Authorization: Bearer bad\r\n";

#[test]
fn the_registrys_refusal_goes_through_unchanged() {
    let registry = Private::start();
    registry.run(async |bench| {
        let by_digest = format!("GET /v2/secret/app/manifests/{}", registry.digest());
        for line in ["GET /v2/", &by_digest, "GET /v2/secret/app/tags/list"] {
            for lines in ["", BAD] {
                let refused = bench.ask_with(line, lines, "").await;
                assert_eq!((refused.status, refused.body.as_str()), (401, WORDS), "{line}");
                assert_eq!(refused.extra, format!("WWW-Authenticate: {CHALLENGE}\r\n"));
                assert_eq!(refused.content_type, "application/json; charset=utf-8");
            }
            assert_eq!(bench.ask_with(line, GOOD, "").await.status, 200, "{line}");
        }
        let head = bench.ask("HEAD /v2/secret/app/manifests/v1", "").await;
        assert_eq!(head.status, 401);
        assert_eq!(head.extra, format!("WWW-Authenticate: {CHALLENGE}\r\n"));
    });
}

#[test]
fn what_is_here_is_given_to_whom_the_registry_would_give_it() {
    let registry = Private::start();
    registry.run(async |bench| {
        let image = registry.digest();
        let tag = bench.ask_with("HEAD /v2/secret/app/manifests/v1", GOOD, "").await;
        assert_eq!((tag.status, tag.digest), (200, Some(image)));
        let line = format!("GET /v2/secret/app/manifests/{image}");
        assert_eq!(bench.ask_with(&line, GOOD, "").await.status, 200);
        let asked = registry.server.heads().len();
        let blob = format!("GET /v2/secret/app/blobs/{}", digest(b"layer"));
        assert!(bench.admit(&blob, GOOD).await.is_ok());
        assert_eq!(bench.ask_with(&line, GOOD, "").await.status, 200);
        assert_eq!(registry.server.heads().len(), asked, "its yes to the manifest is remembered");
        for lines in ["", BAD] {
            assert_eq!(bench.ask_with(&line, lines, "").await.status, 401);
            let refused = bench.admit(&blob, lines).await.unwrap_err();
            assert_eq!(refused.status, 401);
            assert!(refused.extra.contains(CHALLENGE), "{}", refused.extra);
        }
        // Who may read another repository may not read this one's blobs through it.
        let open = bench.ask_with("GET /v2/open/app/manifests/v1", "", "").await;
        assert_eq!(open.status, 200);
        let blob = format!("GET /v2/open/app/blobs/{}", digest(b"layer"));
        assert_eq!(bench.admit(&blob, "").await.unwrap_err().status, 404);
    });
}

/// The request that a source is asked with.
fn head_of(source: Source) -> String {
    match source {
        Source::Http { head, .. } => String::from_utf8(head).unwrap(),
        Source::Cold { .. } => panic!("not a plain source"),
    }
}

#[test]
fn a_token_that_ends_in_mid_blob_is_replaced() {
    let registry = Private::start();
    registry.run(async |bench| {
        bench.ask_with("HEAD /v2/secret/app/manifests/v1", GOOD, "").await;
        let blob = digest(b"layer");
        bench.want_of("secret/app", blob, GOOD);
        let ToHot::Fetch { source, .. } = bench.next_else().await else { panic!("no fetch") };
        assert!(head_of(source).contains(GOOD));
        assert!(matches!(bench.next_else().await, ToHot::File { .. }));
        *registry.token.lock().unwrap() = "Bearer newer".to_owned();
        let challenge = format!("401 Unauthorized\r\nWWW-Authenticate: {CHALLENGE}");
        bench.lose(blob, 0, 700_000, status(&challenge));
        // Who asks for it with the old one is not let in by a grant of before.
        assert!(matches!(bench.next_else().await, ToHot::Revoke { digest } if digest == blob));
        let refused = bench.admit(&format!("GET /v2/secret/app/blobs/{blob}"), GOOD).await;
        assert_eq!(refused.unwrap_err().status, 401);
        let newer = "Authorization: Bearer newer\r\n";
        let tag = bench.ask_with("HEAD /v2/secret/app/manifests/v1", newer, "").await;
        assert_eq!(tag.status, 200);
        let ToHot::Source { attempt: 0, restart: false, source, .. } = bench.next_else().await
        else {
            panic!("not gone on")
        };
        assert!(head_of(source).contains(newer));
    });
}

#[test]
fn a_denied_blob_is_refused_with_the_challenge() {
    let registry = Private::start();
    registry.run(async |bench| {
        bench.ask_with("HEAD /v2/secret/app/manifests/v1", GOOD, "").await;
        let blob = digest(b"layer");
        bench.want_of("secret/app", blob, GOOD);
        assert!(matches!(bench.next_else().await, ToHot::Fetch { .. }));
        assert!(matches!(bench.next_else().await, ToHot::File { .. }));
        bench.lose(blob, 0, 0, status(&format!("401 U\r\nWWW-Authenticate: {CHALLENGE}")));
        assert!(matches!(bench.next_else().await, ToHot::Revoke { .. }));
        let ToHot::Refuse { status, extra, .. } = bench.next_else().await else {
            panic!("not refused")
        };
        assert_eq!((status, extra), (401, format!("WWW-Authenticate: {CHALLENGE}\r\n")));
    });
}

#[test]
fn nodes_vouch_for_their_callers() {
    let registry = Private::start();
    let control = PaperControl::start(&[("n1", "127.0.0.1:9")]);
    let setup =
        Setup { checks: true, control: Some(control.address), ..Setup::registry(&registry.server) };
    setup.run(async |bench| {
        assert!(matches!(bench.next().await, ToHot::Vouchers(_)), "control hands out a key");
        let line = format!("GET /v2/secret/app/manifests/{}", registry.digest());
        assert_eq!(bench.ask_with(&line, GOOD, "").await.status, 200);
        bench.want_of("secret/app", digest(b"layer"), GOOD);
        let ToHot::Fetch { source, .. } = bench.next_else().await else { panic!("no fetch") };
        let head = head_of(source);
        assert!(!head.contains("Authorization"), "no secret goes to another node: {head}");
        let grant = head.lines().find(|line| line.starts_with("Xylem-Grant: ")).unwrap();
        assert!(matches!(bench.next_else().await, ToHot::File { .. }));
        // The same word from another node would be taken here; without it the registry is asked.
        let blob = format!("GET /v2/secret/app/blobs/{}", digest(b"layer"));
        let vouched = format!("Xylem-Node: me\r\n{grant}\r\n");
        assert!(bench.admit(&blob, &vouched).await.is_ok());
        let forged = format!("Xylem-Node: n2\r\n{grant}\r\n");
        assert_eq!(bench.admit(&blob, &forged).await.unwrap_err().status, 401);
        assert_eq!(bench.admit(&blob, "Xylem-Node: me\r\n").await.unwrap_err().status, 401);
    });
}

#[test]
fn a_tag_outlives_its_registry_for_whom_it_knew() {
    let registry = Private::start();
    let setup = Setup {
        checks: true,
        offline: Duration::from_secs(60),
        ..Setup::registry(&registry.server)
    };
    setup.run(async |bench| {
        let line = "GET /v2/secret/app/manifests/v1";
        let fresh = bench.ask_with(line, GOOD, "").await;
        assert_eq!((fresh.status, fresh.extra.as_str()), (200, ""));
        registry.server.break_down();
        let stale = bench.ask_with(line, GOOD, "").await;
        assert_eq!((stale.status, &stale.body), (200, &fresh.body));
        assert!(stale.extra.starts_with("Warning: 110 xylem "), "{}", stale.extra);
        assert!(bench.ask("GET /xylem/v1/status", "").await.body.contains("secret/app:v1"));
        let blob = format!("GET /v2/secret/app/blobs/{}", digest(b"layer"));
        assert!(bench.admit(&blob, GOOD).await.is_ok(), "its yes of before still counts");
        assert_eq!(bench.ask_with(line, BAD, "").await.status, 502, "nobody else gets it");
        assert_eq!(bench.admit(&blob, "").await.unwrap_err().status, 502);
        let other = bench.ask_with("GET /v2/secret/app/manifests/v2", GOOD, "").await;
        assert_eq!(other.status, 502);
    });
}

/// A node that was restarted names a tag while its registry is down, but for a private image: whose
/// credentials counted is not known any more.
#[test]
fn a_tag_outlives_its_node_for_whom_it_is_public() {
    let registry = Private::start();
    let setup = || Setup {
        checks: true,
        offline: Duration::from_secs(60),
        ..Setup::registry(&registry.server)
    };
    let line = "GET /v2/secret/app/manifests/v1";
    let (mut kept, mut manifest) = (Vec::new(), String::new());
    setup().run(async |bench| {
        manifest = bench.ask_with(line, GOOD, "").await.body;
        let path = bench.store.join("tags");
        let written = async {
            while !path.exists() {
                bench.ask("GET /xylem/v1/status", "").await;
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("tags are not kept");
        kept = kept_in(&path);
    });
    registry.server.break_down();
    for is_public in [true, false] {
        let (kept, manifest) = (kept.clone(), manifest.clone());
        let fill = move |store: &Store| {
            let image = digest(manifest.as_bytes());
            store.put(&image, manifest.as_bytes()).unwrap();
            if is_public {
                store.mark_public(&[image]);
            }
            store.keep_tags(kept).unwrap();
        };
        let setup = Setup { fill: Some(Box::new(fill)), ..setup() };
        setup.run(async |bench| {
            let answer = bench.ask_with(line, GOOD, "").await;
            let has_warning = answer.extra.starts_with("Warning: 110 xylem ");
            assert_eq!(
                (answer.status, has_warning),
                if is_public { (200, true) } else { (502, false) }
            );
        });
    }
}

#[test]
fn a_pull_of_what_is_here_makes_nothing_public() {
    let registry = Private::start();
    registry.run(async |bench| {
        let line = format!("GET /v2/secret/app/manifests/{}", registry.digest());
        assert_eq!(bench.ask_with(&line, GOOD, "").await.status, 200);
        let body = format!(r#"{{"name":"secret/app","reference":"{}"}}"#, registry.digest());
        assert_eq!(bench.ask("POST /xylem/v1/pulls", &body).await.status, 202);
        assert!(matches!(bench.next_else().await, ToHot::Fetch { .. }), "the pull goes on");
        registry.server.break_down();
        let ticket = bench.ask_later(&line);
        let answer = loop {
            match bench.next_else().await {
                answer @ ToHot::Answer { .. } => break Answered::of(answer, ticket),
                ToHot::Fetch { .. } | ToHot::File { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(answer.status, 502, "nobody knows it as public");
    });
}

#[test]
fn without_a_time_a_tag_is_not_given_out_unconfirmed() {
    let registry = Private::start();
    registry.run(async |bench| {
        let line = "GET /v2/secret/app/manifests/v1";
        assert_eq!(bench.ask_with(line, GOOD, "").await.status, 200);
        registry.server.break_down();
        assert_eq!(bench.ask_with(line, GOOD, "").await.status, 502);
    });
}

#[test]
fn what_a_node_was_vouched_for_is_nobody_elses() {
    let registry = Private::start();
    let control = PaperControl::start(&[("n1", "127.0.0.1:9")]);
    let setup =
        Setup { checks: true, control: Some(control.address), ..Setup::registry(&registry.server) };
    setup.run(async |bench| {
        let ToHot::Vouchers(vouchers) = bench.next().await else { panic!("no key") };
        let line = format!("GET /v2/secret/app/manifests/{}", registry.digest());
        assert_eq!(bench.ask_with(&line, GOOD, "").await.status, 200);
        // What another node asks for has no Authorization: no more than a stranger's request has.
        let vouched = vouchers.sign("n2", None, "secret/app", &registry.digest()).unwrap();
        let lines = format!("Xylem-Node: n2\r\nXylem-Grant: {vouched}\r\n");
        assert_eq!(bench.ask_with(&line, &lines, "").await.status, 200);
        assert_eq!(bench.ask_with(&line, "", "").await.status, 401);
        let blob = format!("GET /v2/secret/app/blobs/{}", digest(b"layer"));
        assert_eq!(bench.admit(&blob, "").await.unwrap_err().status, 401);
    });
}

/// Answers with a token for whoever brings the password.
fn token_service() -> PaperServer {
    PaperServer::start(|head| {
        let good = head.to_lowercase().contains("authorization: basic dtpw\r\n");
        match head.split(' ').nth(1) {
            Some(path) if good && path.contains("scope=repository%3Asecret%2Fapp%3Apull") => {
                Page::new(200, r#"{"token":"good"}"#)
            }
            _ => Page::new(401, WORDS),
        }
    })
}

#[test]
fn a_client_that_cannot_name_its_registry_gets_a_token_of_it() {
    let service = token_service();
    let realm = format!("Bearer realm=\"http://{}/t\",service=\"r\"", service.address);
    let tokens = PaperServer::start(move |head| match head {
        head if head.to_lowercase().contains("authorization: bearer good\r\n") => {
            Page::manifest("{\"layers\":[]}")
        }
        _ => Page::new(401, WORDS).with("WWW-Authenticate", realm.clone()),
    });
    let basic = PaperServer::start(|head| match head {
        head if head.to_lowercase().contains("authorization: basic dtpw\r\n") => {
            Page::manifest("{\"layers\":[]}")
        }
        _ => Page::new(401, WORDS).with("WWW-Authenticate", "Basic realm=\"x\"".to_owned()),
    });
    let registries = vec![
        format!("t.example=http://{}", tokens.address),
        format!("b.example=http://{}", basic.address),
    ];
    let setup = Setup { registries, checks: true, ..Setup::default() };
    setup.run(async |bench| {
        let ping = bench.ask("GET /v2/", "").await;
        assert_eq!(ping.status, 401);
        assert!(ping.extra.contains("realm=\"http://me/xylem/v1/token\""), "{}", ping.extra);
        for registry in ["t.example", "b.example"] {
            let scope = format!("repository%3A{registry}%2Fsecret%2Fapp%3Apull");
            let line = format!("GET /xylem/v1/token?scope={scope}&service=xylem");
            let given = bench.ask_with(&line, "Authorization: Basic dTpw\r\n", "").await;
            let token: serde_json::Value = serde_json::from_str(&given.body).unwrap();
            let lines = format!("Authorization: Bearer {}\r\n", token["token"].as_str().unwrap());
            let line = format!("GET /v2/{registry}/secret/app/manifests/v1");
            assert_eq!(bench.ask_with(&line, &lines, "").await.status, 200, "{registry}");
            assert_eq!(bench.ask(&line, "").await.status, 401, "{registry}");
        }
        let scope = "repository%3At.example%2Fsecret%2Fapp%3Apull";
        let line = format!("GET /xylem/v1/token?scope={scope}");
        let refused = bench.ask_with(&line, "Authorization: Basic d3Jvbmc=\r\n", "").await;
        assert_eq!((refused.status, refused.body.as_str()), (401, WORDS), "the service's words");
    });
}

#[test]
fn registries_are_told_apart_by_name() {
    let (one, two) = (Private::start(), Private::start());
    let setup = Setup {
        registries: vec![
            format!("one.example=http://{}", one.server.address),
            format!("two.example:5000=http://{}", two.server.address),
        ],
        checks: true,
        ..Setup::default()
    };
    setup.run(async |bench| {
        let get = async |line: &str| bench.ask_with(line, GOOD, "").await.status;
        assert_eq!(get("GET /v2/secret/app/manifests/v1?ns=one.example").await, 200);
        assert_eq!((one.server.heads().len(), two.server.heads().len()), (2, 0));
        assert_eq!(get("GET /v2/secret/app/tags/list?ns=two.example%3A5000").await, 200);
        assert_eq!(get("GET /v2/two.example__5000/secret/app/tags/list").await, 200);
        assert_eq!(two.server.count("GET /v2/secret/app/tags/list HTTP"), 2);
        assert_eq!(get("GET /v2/secret/app/manifests/v1?ns=three.example").await, 403);
        assert_eq!(get("GET /v2/secret/app/manifests/v1").await, 404);
        let blob = format!("GET /v2/x/blobs/{}?ns=three.example", digest(b"layer"));
        assert_eq!(bench.admit(&blob, GOOD).await.unwrap_err().status, 403);
        let status = bench.ask("GET /xylem/v1/status", "").await.body;
        assert!(status.contains("\"host\":\"two.example:5000\""), "{status}");
    });
}
