//! What a lab and its machine can do and have done: rates, bytes, CPU time; changes nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Lab;
use crate::{run, sys};

const ROUNDS: usize = 3;
/// Left out at the start of a flow: slow start, and the shaper's burst.
const WARM_UP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_millis(1000);
const CHUNK_BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes per second of one plain TCP flow on the idle link between two hosts: median of three.
pub(crate) fn goodput(lab: &Lab, from: &str, to: &str) -> Result<f64> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(one_flow(lab, from, to)?);
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}

fn one_flow(lab: &Lab, from: &str, to: &str) -> Result<f64> {
    let sink = lab.host(to)?;
    let listener = lab.within(to, || {
        TcpListener::bind(sink.at(0)).context("cannot listen for the measurement")
    })?;
    let address = listener.local_addr()?;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| lab.within(from, || send_until(address, &enough)));
        let rate = receive(&listener);
        enough.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender does not panic");
        let rate = rate?;
        sent.map(|()| rate)
    })
}

fn send_until(to: std::net::SocketAddr, enough: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    while !enough.load(Ordering::Relaxed) && run::go_on().is_ok() {
        // The receiver closes when it has seen enough.
        if stream.write(&chunk).is_err() {
            break;
        }
    }
    Ok(())
}

fn receive(listener: &TcpListener) -> Result<f64> {
    listener.set_nonblocking(true)?;
    let mut stream = run::wait_for("the flow of the measurement", PATIENCE, || {
        Ok(listener.accept().ok().map(|(stream, _)| stream))
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read_for = |span: Duration| -> Result<(usize, Duration)> {
        let start = Instant::now();
        let mut bytes = 0;
        while start.elapsed() < span {
            run::go_on()?;
            match stream.read(&mut chunk) {
                // A read with a bound is not begun again when the machine was stopped meanwhile.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => bytes += read.context("the flow of the measurement broke")?,
            }
        }
        Ok((bytes, start.elapsed()))
    };
    read_for(WARM_UP)?;
    let (bytes, span) = read_for(WINDOW)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate to three digits")]
    Ok(bytes as f64 / span.as_secs_f64())
}

/// Bytes a host has sent on its wire, headers included; none on loopback, which hosts share.
pub(crate) fn wire_bytes_sent(lab: &Lab, host: &str) -> Result<Option<u64>> {
    let Some(netns) = &lab.host(host)?.netns else { return Ok(None) };
    let mut ip = run::command("ip");
    ip.args(["-n", netns, "-s", "-j", "link", "show", "dev", "eth0"]);
    let links: Value = serde_json::from_str(&run::output(&mut ip)?)?;
    Ok(links.pointer("/0/stats64/tx/bytes").and_then(Value::as_u64))
}

/// User and system time of a process so far, all its threads together.
pub(crate) fn process_cpu_s(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let fields = stat.rfind(')').and_then(|end| stat.get(end + 2..)).unwrap_or_default();
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).flat_map(str::parse).collect();
    Ok(seconds(ticks.iter().sum()))
}

/// What all processors together have done so far, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineTicks {
    /// Computed, interrupts included.
    pub(crate) busy: u64,
    /// Idled, or waited for a disk.
    pub(crate) idle: u64,
    /// Given to other machines by the hypervisor.
    pub(crate) stolen: u64,
}

impl MachineTicks {
    /// Reads them.
    pub(crate) fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::of(&stat).context("cannot make sense of /proc/stat")
    }

    fn of(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let fields = line.split_ascii_whitespace().map(|field| field.parse().ok());
        let fields: Vec<u64> = fields.collect::<Option<_>>()?;
        // What follows, a guest's time, is counted in user already.
        let [user, nice, system, idle, waiting, irq, softirq, stolen, ..] = *fields else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Self { busy, idle: idle + waiting, stolen })
    }
}

/// What the whole machine has computed so far, interrupts included, idling and waiting not.
pub(crate) fn machine_cpu_s() -> Result<f64> {
    Ok(seconds(MachineTicks::read()?.busy))
}

/// Ticks of the kernel as seconds.
pub(crate) fn seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a time to hundredths of a second")]
    let seconds = ticks as f64 / sys::ticks_per_second() as f64;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_first_line_is_taken_apart() {
        let stat = "cpu  1 2 4 8 16 32 64 128 256 512\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        let expected = MachineTicks { busy: 103, idle: 24, stolen: 128 };
        assert_eq!(MachineTicks::of(stat), Some(expected));
        for bad in ["", "cpu  1 2 3", "cpu0 1 2 4 8 16 32 64 128", "cpu  1 2 4 x 16 32 64 128"] {
            assert_eq!(MachineTicks::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_busy_process_uses_cpu_time_and_the_machine_too() {
        // Other tests of this process have used some before.
        let own = || process_cpu_s(std::process::id()).unwrap();
        let before = (own(), machine_cpu_s().unwrap());
        run::wait_for("50 ms of CPU time", PATIENCE, || {
            (0..1_000_000_u64).map(std::hint::black_box).sum::<u64>();
            let moved = own() - before.0 > 0.05 && machine_cpu_s()? > before.1;
            Ok(moved.then_some(()))
        })
        .unwrap();
    }
}
