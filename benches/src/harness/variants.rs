//! Which relays are compared and how each is started; what they cost is measured elsewhere.

use crate::bytes::{KIB, MIB};
use crate::harness::Bench;
use clap::ValueEnum;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Memory setting of our relay in the bench, in bytes.
pub const MEMORY_BYTES: u64 = 8 * MIB;

/// A relay under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Variant {
    /// Our daemon.
    Xylem,
    /// Our daemon without hashing.
    XylemNohash,
    /// A blocking loop with a 64 KiB buffer.
    #[value(name = "blocking-64k")]
    Blocking64k,
    /// A blocking loop with a 512 KiB buffer.
    #[value(name = "blocking-512k")]
    Blocking512k,
    /// A tokio task with a 64 KiB buffer.
    #[value(name = "tokio-64k")]
    Tokio64k,
    /// splice, tee and an O_DIRECT file.
    Splice,
    /// Debian's mbuffer.
    Mbuffer,
    /// A minimal io_uring that sends by SEND.
    RingSend,
    /// The same by SEND_ZC.
    RingZeroCopy,
    /// The same by WRITE_FIXED to the sockets.
    RingWriteFixed,
}

/// Where a relay that knows no HTTP takes from and gives to.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Address to take the sender's connection on.
    pub listen: SocketAddr,
    /// The readers.
    pub to: &'a [SocketAddr],
    /// File to write.
    pub file: &'a Path,
    /// Length of the data in bytes.
    pub size: u64,
}

impl Variant {
    /// Those that are compared where nothing else is asked for, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Xylem,
        Self::XylemNohash,
        Self::Blocking64k,
        Self::Blocking512k,
        Self::Tokio64k,
        Self::Splice,
        Self::Mbuffer,
    ];

    /// Name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xylem => "xylem",
            Self::XylemNohash => "xylem-nohash",
            Self::Blocking64k => "blocking-64k",
            Self::Blocking512k => "blocking-512k",
            Self::Tokio64k => "tokio-64k",
            Self::Splice => "splice",
            Self::Mbuffer => "mbuffer",
            Self::RingSend => "ring-send",
            Self::RingZeroCopy => "ring-zero-copy",
            Self::RingWriteFixed => "ring-write-fixed",
        }
    }

    /// Whether this is our own daemon.
    #[must_use]
    pub fn ours(self) -> bool {
        matches!(self, Self::Xylem | Self::XylemNohash)
    }

    /// Whether the program says when it is ready.
    #[must_use]
    pub fn says_ready(self) -> bool {
        self != Self::Mbuffer
    }

    /// Why the variant cannot run on this machine, if so.
    #[must_use]
    pub fn missing(self, bench: &Bench) -> Option<String> {
        if self.ours() {
            let path = bench.xylemd();
            return (!path.exists()).then(|| format!("{} is not there", path.display()));
        }
        let tried = || Command::new("mbuffer").arg("--version").stderr(Stdio::null()).output();
        (self == Self::Mbuffer && tried().is_err())
            .then(|| "mbuffer is not installed (apt-get install mbuffer)".to_owned())
    }

    /// The command that relays plain bytes along a route; `None` for our daemon, which speaks HTTP.
    #[must_use]
    pub fn command(self, bench: &Bench, route: &Route<'_>) -> Option<Command> {
        let rival = |program: &str| {
            let mut command = Command::new(bench.program(program));
            command.args(["--listen", &route.listen.to_string()]);
            for to in route.to {
                command.args(["--to", &to.to_string()]);
            }
            command.arg("--file").arg(route.file).args(["--size", &route.size.to_string()]);
            command
        };
        let buffered = |program: &str, bytes: u64| {
            let mut command = rival(program);
            command.args(["--buffer", &bytes.to_string()]);
            command
        };
        let ring = |how: &str| {
            let mut command = rival("rival-ring");
            command.args(["--how", how]);
            command
        };
        Some(match self {
            Self::Xylem | Self::XylemNohash => return None,
            Self::Blocking64k => buffered("rival-blocking", 64 * KIB),
            Self::Blocking512k => buffered("rival-blocking", 512 * KIB),
            Self::Tokio64k => {
                let mut command = buffered("rival-tokio", 64 * KIB);
                // A tenth cheaper here than a worker per CPU: the relay is one task.
                command.arg("--current-thread");
                command
            }
            Self::Splice => rival("rival-splice"),
            Self::RingSend => ring("send"),
            Self::RingZeroCopy => ring("zero-copy"),
            Self::RingWriteFixed => ring("write-fixed"),
            Self::Mbuffer => {
                let mut command = Command::new("mbuffer");
                // Left alone it takes 2 % of the memory and small blocks, for a tenth more CPU.
                command.args(["-m", "16M", "-s", "512k", "-q", "-v", "1"]);
                command.args(["-I", &route.listen.port().to_string()]);
                for to in route.to {
                    command.args(["-O", &to.to_string()]);
                }
                command.arg("-f").arg("-o").arg(route.file);
                command
            }
        })
    }

    /// Arguments of our daemon that only this variant has.
    #[must_use]
    pub fn daemon_arguments(self) -> &'static [&'static str] {
        match self {
            Self::XylemNohash => &["--verify", "none"],
            _ => &[],
        }
    }
}
