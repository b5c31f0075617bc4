//! The `xylemd` command: reads the settings, opens what the daemon needs, and starts its two
//! halves.

use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use xylem_dataplane::access::Grantor;
use xylem_dataplane::agent::{self, AccessSettings, AgentError};
use xylem_dataplane::config::{Access, Config, Lock, Options, UpstreamSpec, Verify};
use xylem_dataplane::driver;
use xylem_dataplane::link::{self, HotEnd};
use xylem_dataplane::origin::Registries;
use xylem_dataplane::probes::{self, cli::ProbesArgs};
use xylem_dataplane::ring::{self, EventFd};
use xylem_dataplane::store::Store;
use xylem_protocol::limits::{CONNECTIONS_MAX, FLOWS_MAX, OPEN_BLOBS_MAX};

/// Exit code for misuse: flags or settings that cannot be.
const MISUSE: u8 = 2;

/// Connections that may wait to be accepted; the kernel's own bound (`somaxconn`) is the same.
const BACKLOG: i32 = 4096;

/// Node daemon of Xylem: serves container images to this machine and to the nodes below it in the
/// tree
#[derive(Debug, Parser)]
#[command(name = "xylemd", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    /// TOML file with the same keys as the flags; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Look at the settings without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Load or unload the kernel programs
    Probes(ProbesArgs),
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Say whether xylemd could start with them, and what they come to
    Check {
        /// TOML file with the same keys as the flags; flags win
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Probes(args)) => return probes::cli::run(&args),
        Some(Command::Config(ConfigCommand::Check { config, options })) => {
            return match check(config.as_deref(), *options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, MISUSE),
            };
        }
        None => {}
    }
    let config = match settings(cli) {
        Ok(config) => config,
        Err(error) => return fail(&error, MISUSE),
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("xylemd: {}", xylem_dataplane::oneline::chain(error.as_ref()));
    ExitCode::from(code)
}

/// Everything that can be known of the settings without touching the network.
fn check(path: Option<&std::path::Path>, options: Options) -> Result<()> {
    let options = match path {
        Some(path) => options.over(Options::from_file(path)?),
        None => options,
    };
    if let Some(filter) = &options.log {
        EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is no filter"))?;
    }
    let config = options.check()?;
    let registries = Registries::new(&config)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "node       {} on {}", config.node, config.listen)?;
    writeln!(out, "control    {}", config.control.as_deref().unwrap_or("none"))?;
    let default = registries.default_origin().name();
    writeln!(out, "upstream   {}", default.as_deref().unwrap_or("none"))?;
    for spec in &config.registries {
        let mirrors = spec.mirrors.iter().map(|mirror| format!(", mirror {}", mirror.url()));
        let mirrors = mirrors.collect::<String>();
        writeln!(out, "registry   {} at {}{mirrors}", spec.host, spec.endpoint.url())?;
    }
    writeln!(out, "others     {}", if config.all { "any, over https" } else { "refused" })?;
    let access = match config.access {
        Access::Check => format!("as the registry says, remembered for {:?}", config.grant),
        Access::Open => "whoever reaches the node".to_owned(),
    };
    writeln!(out, "access     {access}")?;
    writeln!(out, "store      {}", config.store.display())?;
    Ok(())
}

/// Settings from file and flags; starts the log as they say.
fn settings(cli: Cli) -> Result<Config> {
    let mut options = cli.options;
    if let Some(path) = &cli.config {
        options = options.over(Options::from_file(path)?);
    }
    let filter = options.log.as_deref().unwrap_or("warn");
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is no filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(options.check()?)
}

/// A connection and an open blob are a descriptor each, and the usual soft limit of 1024 is there
/// for programs that use select(2), which this one does not.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, "cannot raise the limit of open files");
    }
    let limit = maximum.unwrap_or(u64::MAX);
    let needed = u64::from(CONNECTIONS_MAX) + u64::from(OPEN_BLOBS_MAX) + u64::from(FLOWS_MAX);
    if limit < needed {
        warn!(limit, needed, "few files may be open: LimitNOFILE or ulimit -Hn sets how many");
    }
    info!(before = current, now = limit, "open files");
}

fn serve(config: Config) -> Result<()> {
    raise_descriptor_limit();
    let store = Store::open(&config.store)?;
    let registries = Registries::new(&config)?;
    let grantor = asks_registries(&config).then(Grantor::new).transpose()?;
    // Before any socket: the programs count what is opened after them.
    let probes = probes::open(config.probes, config.probe_object.as_deref())?;
    let listener = TcpListener::bind(config.listen)
        .with_context(|| format!("cannot listen on {}; is the port in use?", config.listen))?;
    // The default is 128: of a burst of connections the rest would try again a second later.
    rustix::net::listen(&listener, BACKLOG).context("cannot make the listener's queue longer")?;
    let listen = listener.local_addr().context("cannot read the listener's address")?;
    let (hot, cold) = link::pair().context("cannot make an event descriptor")?;
    let hot_settings = driver::Settings {
        memory_bytes: config.memory_bytes,
        lock: config.lock == Lock::On,
        node: config.node.clone(),
        verify: config.verify == Verify::Sha256,
        grantor: grantor.clone(),
    };
    let (ring, memory_bytes) = start_ring(hot_settings, listener, hot, cold.bell.clone())?;
    info!(memory_bytes, "slots");
    let settings = agent::Settings {
        node: config.node.clone(),
        listen,
        advertise: config.advertise.unwrap_or(listen),
        zone: config.zone,
        control: config.control,
        memory_bytes,
        locked: config.lock == Lock::On,
        is_memory_reduced: config.memory_bytes.is_none() && memory_bytes < ring::MEMORY_BYTES,
        access: AccessSettings { grantor, grant: config.grant, offline: config.offline },
    };
    let mut out = std::io::stdout();
    // Whoever waits for the line may have gone; the daemon serves all the same.
    let _ =
        writeln!(out, "xylemd {} listening on {listen}", config.node).and_then(|()| out.flush());
    let served = agent::run(settings, store, registries, probes, cold);
    match served {
        Ok(()) => join(ring),
        Err(AgentError::RingGone) => join(ring).and_then(|()| Err(anyhow!(AgentError::RingGone))),
        // The ring thread has no one to tell it to stop; it ends with the process.
        Err(error) => Err(error.into()),
    }
}

/// Whether there is a registry to say who may have what.
fn asks_registries(config: &Config) -> bool {
    let default = matches!(config.upstream, Some(UpstreamSpec::Registry(_)));
    let any = default || config.all || !config.registries.is_empty();
    any && config.access == Access::Check
}

type RingThread = JoinHandle<Result<(), driver::DriverError>>;

/// Starts the ring thread and waits until it serves. Returns how many bytes its slots take.
fn start_ring(
    settings: driver::Settings,
    listener: TcpListener,
    hot: HotEnd,
    bell: Arc<EventFd>,
) -> Result<(RingThread, u64)> {
    let (ready, is_ready) = mpsc::channel();
    let run = move || {
        // However the thread ends, the agent is to notice.
        let _last = RingAtEnd(bell);
        driver::run(settings, listener, hot, move |memory_bytes| {
            // The receiver waits for exactly this.
            let _ = ready.send(memory_bytes);
        })
    };
    let ring = std::thread::Builder::new().name("ring".to_owned()).spawn(run);
    let ring = ring.context("cannot start the ring thread")?;
    match is_ready.recv() {
        Ok(memory_bytes) => Ok((ring, memory_bytes)),
        Err(_) => Err(join(ring).err().unwrap_or_else(|| anyhow!("the ring thread did not start"))),
    }
}

fn join(ring: RingThread) -> Result<()> {
    match ring.join() {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(anyhow!("the ring thread has panicked")),
    }
}

/// Rings a bell when it is dropped.
struct RingAtEnd(Arc<EventFd>);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}
