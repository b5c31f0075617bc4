//! perf, and the daemon's static probes put into the kernel for as long as it records.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run;

const TRACEFS: &str = "/sys/kernel/tracing";
/// The name of our probes in the kernel; with the process so that two runs do not meet.
const GROUP: &str = "xylem_trace";
/// Samples of CPU time per second and CPU, with their stacks.
const CPU: &str = "cpu-clock/freq=499,call-graph=dwarf,stack-size=8192,name=cpu/";
/// How long perf may take to begin and to end.
const PERF: Duration = Duration::from_secs(60);
/// Tracepoints beside those of the daemon.
const EVENTS: [&str; 5] = [
    "io_uring:io_uring_submit_req",
    "io_uring:io_uring_complete",
    "io_uring:io_uring_queue_async_work",
    "io_uring:io_uring_short_write",
    "tcp:tcp_retransmit_skb",
];

/// A perf that records. What it put into the kernel is taken out when it is dropped.
#[derive(Debug)]
pub(super) struct Recording {
    perf: Child,
    control: File,
    data: PathBuf,
    probes: Vec<String>,
}

impl Recording {
    /// Begins: when this returns, all is seen.
    pub(super) fn start(xylemd: &Path, out: &Path) -> Result<Self> {
        if !Path::new(TRACEFS).join("uprobe_events").exists() {
            let mut mount = run::command("mount");
            run::output(mount.args(["-t", "tracefs", "nodev", TRACEFS]))
                .context("this kernel traces no programs (CONFIG_UPROBE_EVENTS)")?;
        }
        let (control, ack) = (out.join("perf.control"), out.join("perf.ack"));
        for fifo in [&control, &ack] {
            // One may be left of a run that was killed.
            let _ = fs::remove_file(fifo);
            run::output(run::command("mkfifo").arg(fifo))?;
        }
        let mut fifo = OpenOptions::new();
        fifo.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let (tell, mut answer) = (fifo.open(&control)?, fifo.open(&ack)?);
        let data = out.join("perf.data");
        let mut perf = run::command("perf");
        perf.args(["record", "-q", "-a", "-k", "mono", "-m", "4096", "-D", "-1", "-c", "1"]);
        perf.args(["-e", CPU]).arg("-o").arg(&data);
        perf.arg(format!("--control=fifo:{},{}", control.display(), ack.display()));
        for event in EVENTS {
            perf.args(["-e", event]);
        }
        let probes = add_probes(xylemd)?;
        perf.args(["-e", &format!("{GROUP}:*")]);
        let perf = perf.spawn().inspect_err(|_| remove(&probes)).context("cannot start perf")?;
        let mut recording = Self { perf, control: tell, data, probes };
        recording.say("enable\n")?;
        let mut said = [0; 16];
        run::wait_for("perf to begin", PERF, || {
            if let Some(status) = recording.perf.try_wait()? {
                bail!("perf ended ({status})");
            }
            // Nothing yet is an error on a pipe that is not waited for.
            Ok(answer.read(&mut said).ok().filter(|&bytes| bytes > 0))
        })?;
        // Both ends are open: their names are needed no longer.
        for fifo in [&control, &ack] {
            fs::remove_file(fifo).with_context(|| format!("cannot remove {}", fifo.display()))?;
        }
        Ok(recording)
    }

    fn say(&mut self, word: &str) -> Result<()> {
        self.control.write_all(word.as_bytes()).context("perf does not listen")
    }

    /// Ends it; where the data is.
    pub(super) fn stop(mut self) -> Result<PathBuf> {
        self.say("stop\n")?;
        run::wait_for("the end of perf", PERF, || Ok(self.perf.try_wait()?))?;
        Ok(self.data.clone())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
        remove(&self.probes);
    }
}

fn write_probe(line: &str) -> Result<()> {
    let mut events = OpenOptions::new().append(true).open(format!("{TRACEFS}/uprobe_events"))?;
    events.write_all(line.as_bytes()).with_context(|| format!("the kernel refuses: {line}"))
}

fn remove(probes: &[String]) {
    for probe in probes {
        if let Err(error) = write_probe(&format!("-:{GROUP}/{probe}")) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Puts a breakpoint at each `nop` that a note of the binary names; their names.
fn add_probes(xylemd: &Path) -> Result<Vec<String>> {
    let binary = xylemd.to_str().context("path is not text")?;
    let notes = run::output(run::command("readelf").args(["-nW", binary]))?;
    let segments = run::output(run::command("readelf").args(["-lW", binary]))?;
    let mut added: Vec<String> = Vec::new();
    for note in notes.split("Provider: xylem").skip(1) {
        let (name, line) = definition(note, &segments, binary, added.len())
            .with_context(|| format!("a note of {binary} makes no sense"))?;
        if let Err(error) = write_probe(&line) {
            remove(&added);
            return Err(error);
        }
        added.push(name);
    }
    anyhow::ensure!(!added.is_empty(), "{binary} has no static probes");
    Ok(added)
}

/// The kernel's line for one note: its offset in the file, its arguments by register.
fn definition(note: &str, segments: &str, binary: &str, number: usize) -> Option<(String, String)> {
    let after = |label: &str| note.split(label).nth(1)?.lines().next();
    let hex = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let location = hex(after("Location: ")?.split(',').next()?)?;
    let offset = segments.lines().filter_map(|line| {
        let mut words = line.trim().strip_prefix("LOAD")?.split_whitespace();
        let (offset, address) = (hex(words.next()?)?, hex(words.next()?)?);
        let bytes = hex(words.nth(1)?)?;
        (address..address + bytes).contains(&location).then(|| location - address + offset)
    });
    let offset = { offset }.next()?;
    let mut arguments = String::new();
    for (name, argument) in ["blob", "at", "bytes"].iter().zip(after("Arguments: ")?.split(' ')) {
        let register = argument.split_once("@%")?.1;
        // The kernel writes %ax for %rax, and %r9 as it is.
        let numbered = register[1..].starts_with(|c: char| c.is_ascii_digit());
        let register = if numbered { register } else { register.trim_start_matches('r') };
        arguments.push_str(&format!(" {name}=%{register}:u64"));
    }
    // A probe that the compiler has put into two places has two notes.
    let name = format!("{}_{number}", after("Name: ")?.trim());
    let line = format!("p:{GROUP}/{name} {binary}:{offset:#x}{arguments}\n");
    Some((name, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_becomes_a_line_for_the_kernel() {
        let segments = "  LOAD 0x000000 0x0 0x0 0x555 0x555 R 0x1000\n  \
                        LOAD 0x555740 0x556740 0x556740 0x9acea0 0x9acea0 R E 0x1000\n";
        let note = "\n    Name: stored\n    \
                    Location: 0x000000000072809d, Base: 0x1, Semaphore: 0x0\n    \
                    Arguments: -8@%r12 -8@%rsi -8@%rcx\n";
        let (name, line) = definition(note, segments, "/x", 3).unwrap();
        assert_eq!(name, "stored_3");
        let expected =
            "p:xylem_trace/stored_3 /x:0x72709d blob=%r12:u64 at=%si:u64 bytes=%cx:u64\n";
        assert_eq!(line, expected);
    }
}
