//! The kernel programs for real: loaded, attached to a cgroup, and compared byte for byte with what
//! was sent over loopback. Needs root and the object; says so and passes where it has neither.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use xylem_dataplane::probes::{OwnCgroup, ProbeError, Probes, SocketCounters};

/// Longest wait for the kernel to count what was sent; a delayed acknowledgement takes 40 ms.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A directory without pins.
const NO_PINS: &str = "/sys/fs/bpf/xylem-none";
const REQUEST_BYTES: usize = 77;
const RESPONSES: [usize; 5] = [1, 1000, 100_000, 512 << 10, 5 << 20];

/// A process is in one cgroup, so one test at a time.
static PROCESS: Mutex<()> = Mutex::new(());

/// The object, and the right to be the one who moves the process; `None` (and why) to skip.
fn needs() -> Option<(MutexGuard<'static, ()>, PathBuf)> {
    let guard = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let required =
        ["CI", "XYLEM_REQUIRE_PROBES"].iter().any(|name| std::env::var_os(name).is_some());
    let Some(object) = object() else {
        assert!(!required, "no xylem.bpf.o; `cargo xtask build-and-load` makes it");
        skip("no xylem.bpf.o; `cargo xtask build-and-load` makes it");
        return None;
    };
    match Probes::open(Some(&object), Path::new(NO_PINS)) {
        Ok(_) => Some((guard, object)),
        Err(error) if error.is_missing() => {
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// Says why a test is left out, past the test harness, which shows a passing test's output to
/// nobody.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {}", reason.trim());
}

fn object() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("XYLEM_BPF_OBJECT") {
        return Some(path.into());
    }
    // target/PROFILE/deps/probes-HASH
    let exe = std::env::current_exe().ok()?;
    let target = exe.ancestors().nth(3)?;
    ["debug", "release"].iter().map(|p| target.join(p).join("xylem.bpf.o")).find(|p| p.is_file())
}

fn open(object: &Path) -> Probes {
    Probes::open(Some(object), Path::new(NO_PINS)).expect("privileged")
}

/// Both ends of one connection: `parent` accepted, `child` connected.
struct Pair {
    parent: TcpStream,
    child: TcpStream,
    parent_cookie: u64,
    child_cookie: u64,
    /// Payload child to parent.
    requests: u64,
    /// Payload parent to child.
    responses: u64,
}

impl Pair {
    fn connect(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address.parse::<SocketAddr>().expect("an address"))?;
        let child = TcpStream::connect(listener.local_addr()?)?;
        let (parent, _) = listener.accept()?;
        let parent_cookie = SockRef::from(&parent).cookie()?;
        let child_cookie = SockRef::from(&child).cookie()?;
        Ok(Self { parent, child, parent_cookie, child_cookie, requests: 0, responses: 0 })
    }

    /// One request and one response of `bytes` on the open connection.
    fn exchange(&mut self, bytes: usize) {
        self.child.write_all(&[b'q'; REQUEST_BYTES]).expect("request sent");
        self.parent.read_exact(&mut [0; REQUEST_BYTES]).expect("request received");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut body = vec![0; bytes];
                self.child.read_exact(&mut body).expect("response received");
            });
            self.parent.write_all(&vec![b'a'; bytes]).expect("response sent");
        });
        self.requests += REQUEST_BYTES as u64;
        self.responses += bytes as u64;
    }

    /// Waits until the kernel's counts of both ends are what was sent and `also` holds.
    fn assert_counted(
        &self,
        probes: &Probes,
        also: impl Fn(&SocketCounters, &SocketCounters) -> bool,
    ) {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let parent = probes.read(self.parent_cookie).expect("the parent's socket is counted");
            let child = probes.read(self.child_cookie).expect("the child's socket is counted");
            let counted = [
                parent.payload_received(),
                parent.payload_acked(),
                child.payload_acked(),
                child.payload_received(),
            ];
            let sent = [self.requests, self.responses, self.requests, self.responses];
            if counted == sent && also(&parent, &child) {
                return;
            }
            assert!(Instant::now() < deadline, "{counted:?} != {sent:?}: {parent:?} {child:?}");
            thread::yield_now();
        }
    }
}

fn closed(parent: &SocketCounters, child: &SocketCounters) -> bool {
    parent.is_closed() && child.is_closed()
}

/// Three ways for a connection to end.
#[derive(Clone, Copy, Debug)]
enum End {
    ParentFirst,
    ChildFirst,
    HalfClosed,
}

impl End {
    fn close(self, pair: &mut Pair) {
        let (first, second) = match self {
            Self::ParentFirst | Self::HalfClosed => (&mut pair.parent, &mut pair.child),
            Self::ChildFirst => (&mut pair.child, &mut pair.parent),
        };
        first.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(second.read(&mut [0]).expect("end of stream"), 0);
        if let Self::HalfClosed = self {
            // The other direction goes on after the first FIN.
            second.write_all(&[b'q'; REQUEST_BYTES]).expect("request sent");
            first.read_exact(&mut [0; REQUEST_BYTES]).expect("request received");
            pair.requests += REQUEST_BYTES as u64;
        }
        second.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(first.read(&mut [0]).expect("end of stream"), 0);
    }
}

#[test]
fn kernel_counts_equal_payload_open_and_closed() {
    let Some((_guard, object)) = needs() else { return };
    let probes = open(&object);
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for end in [End::ParentFirst, End::ChildFirst, End::HalfClosed] {
            let Ok(mut pair) = Pair::connect(address) else {
                skip(&format!("no {address} here"));
                break;
            };
            for bytes in RESPONSES {
                pair.exchange(bytes);
                // The connection is open and idle: nothing more will come to correct a count.
                pair.assert_counted(&probes, |_, _| true);
            }
            end.close(&mut pair);
            pair.assert_counted(&probes, closed);
        }
    }
}

#[test]
fn a_closed_descriptor_leaves_final_counts() {
    let Some((_guard, object)) = needs() else { return };
    let mut probes = open(&object);
    let mut pair = Pair::connect("127.0.0.1:0").expect("loopback");
    pair.exchange(1 << 20);
    // The child goes away without reading the end; its socket passes to TIME_WAIT by itself.
    drop(std::mem::replace(&mut pair.child, pair.parent.try_clone().expect("descriptor")));
    assert_eq!(pair.parent.read(&mut [0]).expect("end of stream"), 0);
    pair.parent.shutdown(Shutdown::Write).expect("connected");
    pair.assert_counted(&probes, closed);
    probes.forget(pair.child_cookie);
    assert_eq!(probes.read(pair.child_cookie), None);
}

#[test]
fn many_connections_at_once_are_kept_apart() {
    let Some((_guard, object)) = needs() else { return };
    let probes = open(&object);
    thread::scope(|scope| {
        for n in 1..=8_usize {
            let probes = &probes;
            scope.spawn(move || {
                let mut pair = Pair::connect("127.0.0.1:0").expect("loopback");
                for _ in 0..4 {
                    pair.exchange(n * 300_001);
                }
                pair.assert_counted(probes, |_, _| true);
            });
        }
    });
}

#[test]
fn figures_of_the_path_are_plausible() {
    let Some((_guard, object)) = needs() else { return };
    let probes = open(&object);
    let mut pair = Pair::connect("127.0.0.1:0").expect("loopback");
    let bytes = 16 << 20;
    pair.exchange(bytes);
    pair.assert_counted(&probes, |_, _| true);
    let parent = probes.read(pair.parent_cookie).expect("counted");
    let child = probes.read(pair.child_cookie).expect("counted");
    assert!(parent.rtt_samples > 0 && parent.srtt_us > 0 && parent.cwnd > 0, "{parent:?}");
    assert!(parent.min_rtt_us <= 1_000_000 && parent.mss_bytes > 500, "{parent:?}");
    assert!(parent.delivery_rate_bytes_s() > 0, "{parent:?}");
    let payload = bytes as u64;
    for wire in [parent.wire_out_bytes, child.wire_in_bytes] {
        assert!(wire > payload && wire < payload + payload / 20, "{wire} of {payload}");
    }
    assert!(parent.wire_out_packets > 16 && child.wire_in_packets > 16);
}

#[test]
fn a_socket_from_before_is_not_taken_for_one_of_ours() {
    let Some((_guard, object)) = needs() else { return };
    let before = Pair::connect("127.0.0.1:0").expect("loopback");
    let probes = open(&object);
    let (mut sender, mut receiver) = (&before.child, &before.parent);
    sender.write_all(b"outside").expect("sent");
    receiver.read_exact(&mut [0; 7]).expect("received");
    assert_eq!(probes.read(before.child_cookie), None);
    assert_eq!(probes.read(before.parent_cookie), None);
}

#[test]
fn dropping_detaches_and_removes_the_cgroup() {
    let Some((_guard, object)) = needs() else { return };
    let probes = open(&object);
    let cgroup = probes.cgroup().to_owned();
    let table = probes.table().expect("the kernel tells");
    let ids: Vec<u32> = table.programs.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(loaded(&ids), 3);
    assert_eq!(table.maps.len(), 1);
    assert_eq!(table.maps[0].entries_max, xylem_ebpf::SOCKETS_MAX);
    drop(probes);
    wait_until("programs unloaded", || loaded(&ids) == 0);
    assert!(!cgroup.exists() || !cgroup.ends_with(format!("xylem-{}", std::process::id())));
}

#[test]
fn pins_serve_a_daemon_inside_their_cgroup() {
    let Some((_guard, object)) = needs() else { return };
    let own = OwnCgroup::enter().expect("privileged");
    let Some(bpffs) = BpfFs::mount() else { return };
    let pin = bpffs.0.path().join("pins");
    let load = xylemd(&[
        "probes".as_ref(),
        "load".as_ref(),
        "--object".as_ref(),
        object.as_ref(),
        "--cgroup".as_ref(),
        own.path(),
        "--pin".as_ref(),
        &pin,
    ]);
    assert!(load.status.success(), "{load:?}");
    let probes = Probes::open(None, &pin).expect("pinned for this cgroup");
    let mut pair = Pair::connect("127.0.0.1:0").expect("loopback");
    pair.exchange(100_000);
    pair.assert_counted(&probes, |_, _| true);
    let unload = xylemd(&["probes".as_ref(), "unload".as_ref(), "--pin".as_ref(), &pin]);
    assert!(unload.status.success(), "{unload:?}");
    assert!(!pin.exists());
}

/// A bpf file system of the test's own; unmounting it removes whatever is pinned there.
struct BpfFs(tempfile::TempDir);

impl BpfFs {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount =
            Command::new("mount").args(["-t", "bpf", "xylem-test"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                skip(&String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                skip(&format!("no mount command: {error}"));
                None
            }
        }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_file_that_is_no_object_is_refused_by_name() {
    let Some((_guard, _)) = needs() else { return };
    let own = OwnCgroup::enter().expect("privileged");
    let exe = std::env::current_exe().expect("this test");
    let error = Probes::attach(&exe, own.path()).expect_err("an executable is no probe object");
    assert!(matches!(error, ProbeError::NotOurs { .. } | ProbeError::Load { .. }), "{error:?}");
}

fn xylemd(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xylemd")).args(args).output().expect("xylemd runs")
}

/// How many of the programs the kernel still holds.
fn loaded(ids: &[u32]) -> usize {
    let all = aya::programs::loaded_programs().filter_map(Result::ok);
    all.filter(|info| ids.contains(&info.id())).count()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        thread::yield_now();
    }
}
