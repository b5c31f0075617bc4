//! Clients on the hosts of a lab that all begin at one moment, and when each of them was done.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::run;

/// How often signals and other processes are looked at while clients run.
const LOOK: Duration = Duration::from_millis(100);
/// How long clients may take to say that they are ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// A line of a client's stdout; none is its end.
#[derive(Debug)]
struct Said {
    client: usize,
    at: Instant,
    line: Option<String>,
}

#[derive(Debug)]
struct Client {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether it is waited for as one of those that race.
    counts: bool,
    lines: Vec<(Instant, String)>,
    done: Option<Instant>,
}

/// How it went for one client.
#[derive(Clone, Debug)]
pub(super) struct Finish {
    /// When it was done, in seconds since the start.
    pub(super) at_s: f64,
    /// What it has said, and when.
    pub(super) lines: Vec<(f64, String)>,
}

/// What tells that a client is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// It ends, with success.
    Exit,
    /// It says so, and stays to serve others.
    Line(&'static str),
}

/// Clients at the start. Dropping it kills all that still run.
#[derive(Debug)]
pub(super) struct Race {
    gate: PipeReader,
    starter: Option<PipeWriter>,
    clients: Vec<Client>,
    said: Receiver<Said>,
    says: Sender<Said>,
}

impl Race {
    /// A race without clients, its gate closed.
    pub(super) fn new() -> Result<Self> {
        let (gate, starter) = std::io::pipe().context("cannot make the gate")?;
        let (says, said) = channel();
        Ok(Self { gate, starter: Some(starter), clients: Vec::new(), said, says })
    }

    /// A program that is started when the gate opens; arguments can be added.
    pub(super) fn gated(&self, program: &str) -> Result<Command> {
        let mut command = self.waiting("sh")?;
        command.args(["-c", "read -r go; exec \"$@\"", "sh", program]);
        Ok(command)
    }

    /// A program that starts at once, and finds the end of its stdin when the gate opens.
    pub(super) fn waiting(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        command.stdin(self.gate.try_clone().context("no descriptor for the gate")?);
        Ok(command)
    }

    /// Puts a client on a host. One that does not count is waited for, but its time is nobody's.
    pub(super) fn enter(
        &mut self,
        lab: &mut Lab,
        host: &str,
        mut command: Command,
        counts: bool,
    ) -> Result<u32> {
        command.stdout(Stdio::piped());
        let client = self.clients.len();
        let name = format!("client-{client}-{host}");
        let log = lab.directory().join(format!("{name}.log"));
        let mut child = lab.spawn(host, &name, command)?;
        let pid = child.id();
        let stdout = child.stdout.take().context("a piped stdout")?;
        let says = self.says.clone();
        thread::spawn(move || {
            // Whoever listened may be gone: then nobody wants to know.
            let say = |line| says.send(Said { client, at: Instant::now(), line });
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = say(Some(line));
            }
            let _ = say(None);
        });
        self.clients.push(Client { name, child, log, counts, lines: Vec::new(), done: None });
        Ok(pid)
    }

    /// Waits until every client that counts has said a line.
    pub(super) fn wait_until_ready(&mut self, line: &str) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        let ready = |client: &Client| client.lines.iter().any(|(_, said)| said == line);
        while !self.clients.iter().filter(|client| client.counts).all(ready) {
            ensure!(Instant::now() < deadline, "a client is not ready after {READY_MAX:?}");
            self.hear(Until::Exit, false)?;
        }
        Ok(())
    }

    /// Opens the gate and waits until all are done; `look` may find a reason to give up.
    pub(super) fn run(
        &mut self,
        until: Until,
        bound: Duration,
        mut look: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Finish>> {
        let start = Instant::now();
        self.starter = None;
        let mut looked = start;
        while !self.clients.iter().all(|client| {
            client.done.is_some() || (!client.counts && matches!(until, Until::Line(_)))
        }) {
            self.hear(until, true)?;
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                look()?;
            }
            if start.elapsed() > bound {
                let late = self.clients.iter().filter(|client| client.done.is_none());
                let late: Vec<&str> = late.map(|client| client.name.as_str()).collect();
                bail!("not done after {} s: {}", bound.as_secs(), late.join(", "));
            }
        }
        let counting = self.clients.iter().filter(|client| client.counts);
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let finish = |client: &Client| {
            let lines = client.lines.iter().map(|(at, line)| (since(*at), line.clone()));
            let at_s = since(client.done.context("a client that is not done")?);
            Ok(Finish { at_s, lines: lines.collect() })
        };
        counting.map(finish).collect()
    }

    /// Takes the next line or end of a client, if it comes soon.
    fn hear(&mut self, until: Until, may_end: bool) -> Result<()> {
        run::go_on()?;
        let said = match self.said.recv_timeout(LOOK) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("no client speaks"),
        };
        let client = &mut self.clients[said.client];
        let Some(line) = said.line else {
            let status = client.child.wait()?;
            let fine = status.success() && may_end;
            let expected = matches!(until, Until::Exit) || client.done.is_some();
            let log = || std::fs::read_to_string(&client.log).unwrap_or_default();
            ensure!(fine && expected, "{} ended ({status}): {}", client.name, log());
            client.done.get_or_insert(said.at);
            return Ok(());
        };
        if matches!(until, Until::Line(word) if may_end && word == line) {
            client.done.get_or_insert(said.at);
        }
        client.lines.push((said.at, line));
        Ok(())
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.child.kill();
            let _ = client.child.wait();
        }
    }
}
