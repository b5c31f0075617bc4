//! Commands and waits that can be interrupted and always end; knows nothing of what is run.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// An exit code other than 1, carried as the root of an error.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The code: 2 for misuse or something missing on this machine.
    pub(crate) code: u8,
    /// What is missing and the remedy.
    pub(crate) message: String,
}

impl Exit {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}

/// Turns SIGINT, SIGTERM and SIGHUP into a flag, so that everything is taken down in order.
pub(crate) fn catch_signals() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))
            .context("cannot catch signals")?;
    }
    Ok(())
}

/// Fails once a signal has asked for an end.
pub(crate) fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `probe` until it has something; fails at the bound, on a signal, or with the probe.
pub(crate) fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        go_on()?;
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > bound {
            bail!("waited {} s in vain for {what}", bound.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Does something with each, as many at a time as there are processors; what came of it, in order.
/// After a signal the rest is not begun.
pub(crate) fn with_each<T: Sync>(
    things: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Vec<Result<()>> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(index) else { return done };
            done.push((index, go_on().and_then(|()| work(thing))));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<(usize, Result<()>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        workers.into_iter().flat_map(|it| it.join().expect("the work does not panic")).collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Lets time pass: for a measurement's window or a display's pace, never to wait for an event.
pub(crate) fn pace(span: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        go_on()?;
        thread::sleep(POLL.min(span - start.elapsed().min(span)));
    }
    Ok(())
}

/// A command that reads nothing from the terminal.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The cargo that runs us, as if it had been started by hand: what it told us of our own package
/// would be passed on to the build scripts of all others, and those that watch it (ring's does)
/// would build everything anew after each `cargo build`.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(std::env::var("CARGO").as_deref().unwrap_or("cargo"));
    let is_ours =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_ours) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether a program of that name is on the path or in the usual system directories.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}

/// Runs to the end and returns stdout; a failure shows the command and its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = shown(command);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, &shown)?;
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    if !status.success() {
        bail!("`{shown}` failed ({status}): {}", stderr.trim());
    }
    Ok(stdout)
}

/// Runs to the end with its output on our own terminal.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let status = wait(&mut child, &shown)?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// The directory of the repository.
pub(crate) fn repository() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the own executable")?;
    // Ours is TARGET/<profile>/xtask.
    let target = own.parent().and_then(|profile| profile.parent());
    Ok(target.context("the own executable lies in no target directory")?.to_path_buf())
}

fn wait(child: &mut Child, shown: &str) -> Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(interrupted) = go_on() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(interrupted.context(format!("while `{shown}` ran")));
        }
        thread::sleep(POLL);
    }
}

fn drain<R: Read + Send + 'static>(stream: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_shown_with_its_stderr() {
        let error = output(command("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("why") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_wait_ends_at_its_bound() {
        let error = wait_for::<()>("nothing", Duration::ZERO, || Ok(None)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for nothing");
    }

    /// Two builds of the same sources, one by hand and one by us, built all twice.
    #[test]
    fn what_cargo_tells_us_of_our_package_is_not_passed_on() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo runs the tests");
        let cargo = cargo();
        let removed = |name| cargo.get_envs().any(|(it, value)| it == name && value.is_none());
        assert!(removed("CARGO_MANIFEST_DIR") && removed("CARGO_PKG_NAME"));
    }

    #[test]
    fn each_is_worked_on_once_and_what_came_of_it_keeps_its_place() {
        let numbers: Vec<u32> = (0..100).collect();
        let done = with_each(&numbers, |number| {
            anyhow::ensure!(number % 7 != 0, "{number}");
            Ok(())
        });
        let failed: Vec<String> =
            done.iter().filter_map(|it| Some(it.as_ref().err()?.to_string())).collect();
        let expected: Vec<String> = (0..100).step_by(7).map(|number| number.to_string()).collect();
        assert_eq!((done.len(), failed), (100, expected));
        assert!(done[1].is_ok() && done[7].is_err());
    }
}
