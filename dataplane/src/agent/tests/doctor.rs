//! What a node finds out about itself.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::paper::{Bench, Page, PaperServer, Setup};

async fn checks(bench: &Bench) -> Vec<Value> {
    let answer = bench.ask("GET /xylem/v1/doctor", "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    json["checks"].as_array().unwrap().clone()
}

#[track_caller]
fn is(checks: &[Value], name: &str, ok: Option<bool>, detail: &str, remedy: &str) {
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("{name} in {checks:?}"));
    assert_eq!(check["ok"].as_bool(), ok, "{check}");
    assert!(check["detail"].as_str().unwrap().contains(detail), "{check}");
    let said = check["remedy"].as_str();
    assert_eq!(said.is_some(), !remedy.is_empty(), "{check}");
    assert!(said.unwrap_or_default().contains(remedy), "{check}");
}

#[test]
fn a_node_that_lacks_nothing() {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let server = PaperServer::start(move |_| Page::new(401, "").with("Date", date.clone()));
    Setup::registry(&server).run(async |bench| {
        let checks = checks(bench).await;
        is(&checks, "io_uring", Some(true), "slots registered", "");
        is(&checks, "probes", None, "TCP_INFO", "");
        is(&checks, "control link", None, "none is configured", "");
        let name = format!("registry {}", server.address);
        is(&checks, &name, Some(true), "answers 401: it wants credentials", "");
        let store = checks.iter().find(|check| check["name"] == "store").unwrap();
        assert!(store["detail"].as_str().unwrap().contains("writable"), "{store}");
        is(&checks, "node's clock", Some(true), "within", "");
        assert_eq!(std::fs::read_dir(bench.store.join("partial")).unwrap().count(), 0);
        assert_eq!(bench.ask("POST /xylem/v1/doctor", "").await.status, 405);
    });
}

#[test]
fn each_registry_has_its_own_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let tls = PaperServer::start_tls(&dir.path().join("ca.pem"), |_| Page::new(200, ""));
    let lost = SystemTime::now() - Duration::from_secs(3600);
    let lost = httpdate::fmt_http_date(lost);
    let page = PaperServer::start(move |_| Page::new(404, "").with("Date", lost.clone()));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (port, http) = (tls.address.port(), page.address.port());
    let setup = Setup {
        registries: vec![
            format!("unknown=https://localhost:{port}"),
            format!("page=http://127.0.0.1:{http}"),
            format!("closed=http://{closed}"),
            // It waits for the end of a head, which TLS does not send.
            format!("silent=https://localhost:{http}"),
        ],
        control: Some(closed),
        ..Setup::default()
    };
    setup.run(async |bench| {
        let checks = checks(bench).await;
        is(&checks, "registry unknown", Some(false), "certificate", "ca = ");
        is(&checks, "registry page", Some(false), "answers 404", "is a registry at this URL");
        is(&checks, "registry closed", Some(false), "refused", "nothing listens there");
        is(&checks, "registry silent", Some(false), "no answer within 2000 ms", "firewall");
        is(&checks, "control link", Some(false), "not connected for", "start xylem-control");
        is(&checks, "node's clock", Some(false), "s ahead of http://", "NTP");
        let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        let registries = ["unknown", "page", "closed", "silent"].map(|n| format!("registry {n}"));
        assert_eq!(names[3..7], registries, "in their order");
    });
}

#[test]
fn a_store_that_cannot_be_written() {
    Setup::default().run(async |bench| {
        // Root may write anywhere: the place itself has to go.
        std::fs::remove_dir_all(bench.store.join("partial")).unwrap();
        let checks = checks(bench).await;
        is(&checks, "store", Some(false), "cannot write", "see to that path");
        is(&checks, "registry", None, "none is configured", "--upstream");
        is(&checks, "node's clock", None, "no registry", "");
    });
}
