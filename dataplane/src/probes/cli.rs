//! `xylemd probes load|unload`: programs that stay attached without a daemon, pinned under the bpf
//! file system; `cargo xtask build-and-load` calls it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{PIN_DIR, ProbeError, Probes, Table, cgroup, error, find_object, pins};

/// Name of the cgroup that `load` makes when none is given.
const CGROUP_NAME: &str = "xylem";

/// Arguments of `xylemd probes`.
#[derive(Args, Clone, Debug)]
pub struct ProbesArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Load the programs, attach them to a cgroup, pin them, and print what is loaded
    Load(LoadArgs),
    /// Remove the pins: detaches and unloads the programs
    Unload(UnloadArgs),
}

#[derive(Args, Clone, Debug)]
struct LoadArgs {
    /// Object with the programs [default: xylem.bpf.o beside the executable]
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Cgroup v2 directory whose sockets are counted [default: `xylem`, made at the mount's top]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Directory for the pins, in a bpf file system
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pin: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct UnloadArgs {
    /// Directory of the pins
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pin: PathBuf,
}

/// Runs the command: result on stdout, one line about a failure on stderr. Exit code 0 done, 1 not
/// done, 2 when something is missing that the caller has to provide.
pub fn run(args: &ProbesArgs) -> ExitCode {
    let done = match &args.command {
        Command::Load(args) => load(args),
        Command::Unload(args) => unload(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xylemd: {}", crate::oneline::chain(&failure));
            ExitCode::from(if failure.is_missing() { 2 } else { 1 })
        }
    }
}

fn load(args: &LoadArgs) -> Result<(), ProbeError> {
    let object = find_object(args.object.as_deref())?;
    error::check_privilege()?;
    error::check_btf()?;
    pins::check_bpffs(&args.pin)?;
    let (cgroup, made) = match &args.cgroup {
        Some(path) => (path.clone(), false),
        None => make_default_cgroup()?,
    };
    let loaded = load_into(&object, &cgroup, &args.pin);
    if loaded.is_err() && made {
        // The first error is the one to tell.
        let _ = cgroup::remove(&cgroup);
    }
    print(&loaded?, args.json);
    Ok(())
}

fn load_into(object: &Path, cgroup: &Path, pin_dir: &Path) -> Result<Table, ProbeError> {
    let dir = pins::dir_for(pin_dir, cgroup)?;
    if dir.exists() {
        // An earlier load: these programs take its place.
        pins::remove(&dir)?;
    }
    let pinned = Probes::attach(object, cgroup)?.pin(&dir);
    if pinned.is_err() {
        // Only when it is empty: other cgroups may have pins in it.
        let _ = std::fs::remove_dir(pin_dir);
    }
    pinned
}

fn unload(args: &UnloadArgs) -> Result<(), ProbeError> {
    let ids = pins::remove_all(&args.pin)?;
    let cgroup = default_cgroup()?;
    if ids.iter().any(|id| pins::is_cgroup(&cgroup, *id)) {
        cgroup::remove(&cgroup)?;
    }
    match ids.len() {
        0 => println!("nothing was loaded below {}", args.pin.display()),
        n => println!("unloaded the programs of {n} cgroup{}", if n == 1 { "" } else { "s" }),
    }
    Ok(())
}

fn default_cgroup() -> Result<PathBuf, ProbeError> {
    Ok(cgroup::mount_point()?.join(CGROUP_NAME))
}

/// The default cgroup, and whether it was made now.
fn make_default_cgroup() -> Result<(PathBuf, bool), ProbeError> {
    let path = default_cgroup()?;
    match std::fs::create_dir(&path) {
        Ok(()) => Ok((path, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((path, false)),
        Err(source) => Err(ProbeError::Cgroup { path, source }),
    }
}

fn print(table: &Table, json: bool) {
    if json {
        println!("{}", serde_json::json!(table));
    } else {
        print!("{table}");
    }
}
