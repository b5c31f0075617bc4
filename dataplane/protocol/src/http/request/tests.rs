//! Heads as clients and nodes write them.

use super::super::RangeError;
use super::*;

const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn parse(head: &str) -> Result<Option<(Request, usize)>, HeadError> {
    Request::parse(head.as_bytes())
}

#[test]
fn a_stripe_is_one_of_two_and_of_a_blob() {
    let of = |target: &str| {
        parse(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .map(|found| found.unwrap().0.stripe)
    };
    let blob = format!("/v2/a/blobs/{ZERO}");
    assert_eq!(of(&blob), Ok(None));
    assert_eq!(of(&format!("{blob}?ns=r&stripe=1/2")), Ok(Some(1)));
    assert_eq!(of(&format!("{blob}?stripe=0%2F2")), Ok(Some(0)));
    for other in ["2/2", "0/1", "", "1"] {
        assert_eq!(of(&format!("{blob}?stripe={other}")), Err(HeadError::Stripe));
    }
    assert_eq!(of("/v2/a/manifests/v1?stripe=9"), Ok(None));
}

#[test]
fn a_target_may_name_its_host() {
    let of = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: header\r\n\r\n");
        let (request, _) = parse(&head).unwrap().unwrap();
        (request.route, request.host, request.query)
    };
    let named = |host: &str| Some(host.to_owned());
    let digest = ZERO.parse().unwrap();
    let blob = Route::Blob { repository: "a".into(), digest };
    let path = format!("/v2/a/blobs/{ZERO}?ns=r");
    assert_eq!(of(&path), (blob.clone(), named("header"), "ns=r".into()));
    for scheme in ["http", "HTTPS"] {
        let found = of(&format!("{scheme}://n1:4400{path}"));
        assert_eq!(found, (blob.clone(), named("n1:4400"), "ns=r".into()));
    }
    for root in ["http://n1", "http://", "http://n1?x=/v2/", "http://n1/"] {
        assert_eq!(of(root).0, Route::Other("/".into()), "{root}");
    }
    // A path that only looks like one.
    assert_eq!(of("/http://n1/v2/").0, Route::Other("/http://n1/v2/".into()));
}

#[test]
fn a_request_has_one_host() {
    let of = |version: u8, lines: &str| {
        let found = parse(&format!("GET /v2/ HTTP/1.{version}\r\n{lines}\r\n"));
        found.map(|found| found.unwrap().0.host)
    };
    for host in ["", "n1", "n1:4400", "[::1]:4400", " 10.0.0.1 ", "a_b"] {
        assert!(of(1, &format!("Host: {host}\r\n")).is_ok(), "{host}");
    }
    assert_eq!(of(1, "Accept: x\r\nhOST: n1\r\n"), Ok(Some("n1".into())));
    assert_eq!(of(0, ""), Ok(None), "HTTP/1.0 need not say it");
    for (version, lines) in [
        (1, ""),
        (1, "X-Host: n1\r\n"),
        (1, "Host: n1\r\nHost: n1\r\n"),
        (0, "Host: n1\r\nhost: n2\r\n"),
        (1, "Host: n1 n2\r\n"),
        (1, "Host: http://n1\r\n"),
        (1, "Host: n1/v2\r\n"),
    ] {
        let error = of(version, lines).unwrap_err();
        assert_eq!((error.status(), &error), (400, &HeadError::Host), "{lines}");
    }
}

#[test]
fn a_peer_asks_for_a_blob() {
    let head = format!(
        "GET /v2/a/b/blobs/{ZERO}?ns=r HTTP/1.1\r\nHost: n1\r\nRange: bytes=5-\r\n\
         Xylem-Node: n2\r\nXylem-Image: {ZERO}\r\nXylem-Path: n3, n2\r\n\r\nrest"
    );
    let (request, length) = parse(&head).unwrap().unwrap();
    assert_eq!(&head[length..], "rest");
    let digest = ZERO.parse().unwrap();
    assert_eq!(request.route, Route::Blob { repository: "a/b".into(), digest });
    assert_eq!(request.range, Some(ByteRange::From(5)));
    assert_eq!(request.node.as_deref(), Some("n2"));
    assert_eq!(request.image, Some(digest));
    assert_eq!(request.path, ["n3", "n2"]);
    assert_eq!((&*request.query, request.namespace.as_deref()), ("ns=r", Some("r")));
    assert!(request.keep_alive);
}

#[test]
fn accept_lines_are_joined() {
    let head = "GET /v2/a/manifests/latest HTTP/1.0\r\nAccept: x\r\naccept: y\r\n\r\n";
    let (request, _) = parse(head).unwrap().unwrap();
    assert_eq!(request.accept, "x, y");
    assert!(!request.keep_alive, "HTTP/1.0 closes");
}

#[test]
fn tags_that_the_client_has() {
    let digest: Digest = ZERO.parse().unwrap();
    let head = format!(
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"x\"\r\n\
         If-None-Match: W/\"{ZERO}\"\r\n\r\n"
    );
    let (request, _) = parse(&head).unwrap().unwrap();
    assert!(has_tag(&request.known, &digest));
    assert!(has_tag("*", &digest) && has_tag(&format!("\"{ZERO}\", \"x\""), &digest));
    for other in ["", "\"x\"", &ZERO[..70], "\"\""] {
        assert!(!has_tag(other, &digest), "{other}");
    }
}

#[test]
fn unfinished_heads_wait_and_endless_ones_do_not() {
    assert_eq!(parse("GET /v2/ HTTP/1.1\r\nHost: x\r\n"), Ok(None));
    let endless = format!("GET /v2/ HTTP/1.1\r\nA: {}", "x".repeat(16 * 1024));
    assert_eq!(parse(&endless), Err(HeadError::TooLong));
    let many = format!("GET /v2/ HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    assert_eq!(parse(&many), Err(HeadError::TooMany));
    let whole = format!("GET /v2/ HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(16 * 1024));
    assert_eq!(parse(&whole), Err(HeadError::TooLong), "also when it came at once");
}

#[test]
fn bad_requests_get_their_status() {
    for (line, status) in [
        ("GET /v2/a/blobs/sha256:0 HTTP/1.1", 400),
        ("GET /v2/A/blobs/x HTTP/1.1", 400),
        ("GET /v2/a/../b/manifests/x HTTP/1.1", 400),
        ("GET /v2/a/manifests/-x HTTP/1.1", 404),
        ("GET /v2/a/manifests/sha256:0 HTTP/1.1", 400),
        ("GET /v2/ HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
        ("GET /v2/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        ("GET /v2/ HTTP/1.1\r\nContent-Length: -1", 400),
        ("\u{1}\u{2} nonsense", 400),
        ("GET /v2/?ns=a/b HTTP/1.1", 400),
        ("GET /v2/?ns= HTTP/1.1", 400),
    ] {
        let error = parse(&format!("{line}\r\n\r\n")).unwrap_err();
        assert_eq!(error.status(), status, "{line}: {error}");
    }
    let head = format!("GET /v2/a/blobs/{ZERO} HTTP/1.1\r\nHost: x\r\nRange: bytes=x\r\n\r\n");
    let error = parse(&head).unwrap_err();
    assert_eq!(error, RangeError::Syntax.into());
    assert_eq!((error.status(), error.code()), (416, "RANGE_INVALID"));
}

#[test]
fn ranges_are_of_blobs_and_of_get() {
    let asked = |line: &str, ranges: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{ranges}\r\n");
        parse(&head).unwrap().unwrap().0.range
    };
    let blob = format!("GET /v2/a/blobs/{ZERO}");
    let one = "Range: bytes=0-1\r\n";
    assert_eq!(asked(&blob, one), Some(ByteRange::Span(0, 1)));
    assert_eq!(asked(&blob, &one.repeat(2)), None, "two lines are a list");
    assert_eq!(asked(&blob, "Range: bytes=0-1,4-5\r\n"), None, "a list gets the whole");
    let same = format!("If-Range: \"{ZERO}\"\r\n{one}");
    assert_eq!(asked(&blob, &same), Some(ByteRange::Span(0, 1)));
    assert_eq!(asked(&blob, &format!("If-Range: \"x\"\r\n{one}")), None);
    for line in [&format!("HEAD /v2/a/blobs/{ZERO}"), "GET /v2/", "GET /v2/a/manifests/x"] {
        assert_eq!(asked(line, one), None, "{line}");
        assert_eq!(asked(line, "Range: bytes=x\r\n"), None, "{line}");
    }
}

#[test]
fn a_namespace_is_decoded() {
    let head = "GET /v2/a/tags/list?n=2&ns=r.example%3A5000 HTTP/1.1\r\nHost: x\r\n\r\n";
    let (request, _) = parse(head).unwrap().unwrap();
    assert_eq!(request.namespace.as_deref(), Some("r.example:5000"));
    assert_eq!(request.query, "n=2&ns=r.example%3A5000");
}

#[test]
fn pushes_are_refused_whatever_follows() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
        for path in ["/v2/", "/v2/a/blobs/uploads/", "/v2/A/manifests/x", "/v2/%zz"] {
            let head = format!("{method} {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
            let error = parse(&head).unwrap_err();
            assert_eq!((error.status(), error.code()), (405, "UNSUPPORTED"), "{head}");
        }
    }
    let (own, _) = parse("POST /xylem/v1/pulls HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().unwrap();
    assert_eq!(own.method, Method::Post);
}

#[test]
fn escapes_are_read_but_make_no_components() {
    let digest = ZERO.replace(':', "%3a");
    let head = format!("GET /v2/a/b%2Dc/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (request, _) = parse(&head).unwrap().unwrap();
    let digest = ZERO.parse().unwrap();
    assert_eq!(request.route, Route::Blob { repository: "a/b-c".into(), digest });
    for bad in ["a%2Fb", "a%2fb", "%2e%2e", "a%00", "a%0d", "a%20b", "a%", "a%4", "a%zz", "a%é"] {
        let error = parse(&format!("GET /v2/{bad}/tags/list HTTP/1.1\r\n\r\n")).unwrap_err();
        assert_eq!((error.status(), error.code()), (400, "NAME_INVALID"), "{bad}");
    }
}

#[test]
fn codes_name_what_is_wrong() {
    for (path, code) in [
        ("/v2/a/manifests/sha256:0", "DIGEST_INVALID"),
        ("/v2/a/blobs/x", "DIGEST_INVALID"),
        ("/v2/a/manifests/-x", "MANIFEST_UNKNOWN"),
        ("/v2/A/manifests/x", "NAME_INVALID"),
    ] {
        let error = parse(&format!("GET {path} HTTP/1.1\r\n\r\n")).unwrap_err();
        assert_eq!(error.code(), code, "{path}");
    }
}

#[test]
fn who_closes() {
    let keeps = |version: &str, option: &str| {
        let head = format!("GET /v2/ HTTP/{version}\r\nHost: x\r\nConnection: {option}\r\n\r\n");
        parse(&head).unwrap().unwrap().0.keep_alive
    };
    assert!(keeps("1.1", "keep-alive") && keeps("1.1", "TE"));
    assert!(!keeps("1.1", "Close") && !keeps("1.1", "TE, close"));
    assert!(!keeps("1.0", "keep-alive"));
}

#[test]
fn other_paths() {
    for path in ["/", "/metrics", "/v1/x", "/v2x", "/v2/a/blobs/uploads/x"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (request, _) = parse(&head).unwrap().unwrap();
        assert_eq!(request.route, Route::Other(path.into()));
    }
    let (request, _) = parse("GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().unwrap();
    assert_eq!(request.route, Route::Ping);
}
