//! How a program of the bench and its harness talk: a ready line out, a line in to start, one line
//! of JSON out at the end.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::io::{Write, stdin, stdout};

/// What a sink saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkReport {
    /// Body bytes received.
    pub bytes: u64,
    /// From the request (or the first byte, when nothing is asked for) to the last byte, in
    /// seconds.
    pub seconds: f64,
    /// `CLOCK_MONOTONIC` when the request was sent; when the connection was there, without a
    /// request.
    pub start_ns: u64,
    /// `CLOCK_MONOTONIC` of the first body byte.
    pub first_byte_ns: u64,
    /// `CLOCK_MONOTONIC` of the last body byte.
    pub end_ns: u64,
    /// Digest of the body, when it was to be checked.
    pub digest: Option<String>,
}

/// What an HTTP sender says when it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SenderReady {
    /// Address and port it listens on.
    pub listen: String,
    /// Digests of its blobs, in order.
    pub blobs: Vec<String>,
    /// Digest of the manifest that names the first of them.
    pub manifest: String,
}

/// When an HTTP sender was asked for a blob, and when it began to send its body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamp {
    /// `CLOCK_MONOTONIC` when the request had been read.
    pub asked_ns: u64,
    /// `CLOCK_MONOTONIC` just before the first body byte was given to the kernel.
    pub sent_ns: u64,
    /// Length of that body.
    pub body_bytes: u64,
}

/// Prints one line on stdout and flushes it.
///
/// # Errors
/// A closed stdout.
pub fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// A closed stdout.
pub fn report<T: Serialize>(value: &T) -> Result<()> {
    say(&serde_json::to_string(value)?)
}

/// Says `ready`; with `gated`, then waits for a line on stdin.
///
/// # Errors
/// A closed stdin: whoever was to open the gate is gone.
pub fn pass(gated: bool) -> Result<()> {
    say("ready")?;
    if gated {
        let read = stdin().read_line(&mut String::new())?;
        ensure!(read > 0, "stdin closed before the start");
    }
    Ok(())
}
