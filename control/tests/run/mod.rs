//! Runs the real `xylem` as a user does, and serves what stands in for a node. Knows no command.

use std::process::{Output, Stdio};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nobody listens there: the port of `tcpmux`, and loopback refuses at once.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

/// Runs `xylem` with these arguments, far from any real node or control.
pub(crate) async fn xylem(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xylem"));
    command.env("XYLEM_NODE", NOBODY).env("XYLEM_CONTROL", NOBODY);
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    timeout(PATIENCE, command.output()).await.expect("xylem ends").unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The only line on stderr.
pub(crate) fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("xylem: "), "{text}");
    text
}

/// Serves on a free port of loopback, until the test ends.
pub(crate) async fn serve(router: Router) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    url
}
