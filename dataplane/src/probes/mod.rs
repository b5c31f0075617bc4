//! The kernel's side of the story: attaches the programs of `xylem-ebpf` and reads their counters
//! by socket cookie. It does not know what a hop is.
//!
//! A socket is counted when it was created by a process inside the cgroup the programs are attached
//! to (accepted sockets: when their listener was). So: [`open`] first, sockets after.

mod cgroup;
pub mod cli;
mod error;
mod mounts;
mod pins;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, ProgramError, SockOps,
};
use clap::ValueEnum;
use serde::Deserialize;
pub use xylem_ebpf::SocketCounters;
use xylem_ebpf::{MAP_SOCKETS, PROGRAM_EGRESS, PROGRAM_INGRESS, PROGRAM_SOCK_OPS};

use crate::oneline::chain;
pub use cgroup::OwnCgroup;
pub use error::ProbeError;
pub use table::{MapRow, ProgramRow, Table};

/// Where the pins of `cargo xtask build-and-load` are.
pub const PIN_DIR: &str = "/sys/fs/bpf/xylem";

/// File name of the object with the programs.
pub const OBJECT_NAME: &str = "xylem.bpf.o";

/// Where the object is looked for after the directory of the executable.
const OBJECT_INSTALLED: &str = "/usr/lib/xylem/xylem.bpf.o";

/// What `--probes` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeMode {
    /// Attach; where that is not possible say so once and poll `TCP_INFO`.
    #[default]
    Auto,
    /// Attach, or fail.
    On,
    /// Do not try.
    Off,
}

/// What came of it.
#[derive(Debug)]
pub enum Availability {
    /// The programs count.
    Attached(Box<Probes>),
    /// They cannot, for this reason; hop figures come from `TCP_INFO`.
    Unavailable(ProbeError),
    /// They were not asked for.
    Off,
}

impl Availability {
    /// The probes, where they are attached.
    pub fn probes(&self) -> Option<&Probes> {
        match self {
            Self::Attached(probes) => Some(probes),
            Self::Unavailable(_) | Self::Off => None,
        }
    }

    /// Word for the status page: where hop figures come from.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Attached(_) => "bpf",
            Self::Unavailable(_) | Self::Off => "tcp_info",
        }
    }

    /// Sentence for the status page: where the programs are attached, or why they are not.
    pub fn reason(&self) -> String {
        match self {
            Self::Attached(probes) => probes.describe(),
            Self::Unavailable(error) => chain(error),
            Self::Off => "--probes off".to_owned(),
        }
    }
}

/// Does what `--probes` asks, once, before the process opens its sockets. May move the process into
/// a cgroup of its own, see [`OwnCgroup`].
///
/// # Errors
///
/// Only with [`ProbeMode::On`]; [`ProbeMode::Auto`] logs the reason and goes on without.
pub fn open(mode: ProbeMode, object: Option<&Path>) -> Result<Availability, ProbeError> {
    let opened = match mode {
        ProbeMode::Off => return Ok(Availability::Off),
        ProbeMode::Auto | ProbeMode::On => Probes::open(object, Path::new(PIN_DIR)),
    };
    match opened {
        Ok(probes) => {
            tracing::info!(cgroup = %probes.cgroup.display(), "probes attached");
            Ok(Availability::Attached(Box::new(probes)))
        }
        Err(error) if mode == ProbeMode::On => Err(error),
        Err(error) => {
            let reason = chain(&error);
            tracing::warn!(%reason, "no kernel probes; hop figures come from TCP_INFO");
            Ok(Availability::Unavailable(error))
        }
    }
}

/// Finds the object with the programs: `explicit`, else beside the executable, else installed.
///
/// # Errors
///
/// [`ProbeError::NoObject`] names the places that were tried.
pub fn find_object(explicit: Option<&Path>) -> Result<PathBuf, ProbeError> {
    let candidates = match explicit {
        Some(path) => vec![path.to_owned()],
        None => {
            let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(OBJECT_NAME));
            beside.into_iter().chain([PathBuf::from(OBJECT_INSTALLED)]).collect()
        }
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(ProbeError::NoObject { tried: candidates }),
    }
}

/// The programs, attached to one cgroup, and the map they fill. Dropping it detaches them, unless
/// they are pinned.
#[derive(Debug)]
pub struct Probes {
    sockets: HashMap<MapData, u64, SocketCounters>,
    /// The attachments; they end when this is dropped.
    links: Vec<(&'static str, FdLink)>,
    /// The programs; `None` when another process pinned them and this one only reads.
    ebpf: Option<Ebpf>,
    cgroup: PathBuf,
    /// Dropped last: a cgroup is removed after its programs are detached.
    _own: Option<OwnCgroup>,
}

impl Probes {
    /// What the daemon does: use the pinned map when the programs already watch this process,
    /// otherwise attach to a cgroup that holds nothing but this process.
    ///
    /// # Errors
    ///
    /// Whatever is missing, see [`ProbeError`].
    pub fn open(object: Option<&Path>, pin_dir: &Path) -> Result<Self, ProbeError> {
        match Self::open_pinned(pin_dir) {
            Ok(Some(probes)) => return Ok(probes),
            Ok(None) => {}
            // Of another version, or not readable.
            Err(error) => tracing::debug!(reason = chain(&error), "pins not usable"),
        }
        let object = find_object(object)?;
        error::check_privilege()?;
        let own = OwnCgroup::enter()?;
        let mut probes = Self::attach(&object, own.path())?;
        probes._own = Some(own);
        Ok(probes)
    }

    /// Opens the map pinned for this process' cgroup or one above it; `None` when there is none.
    fn open_pinned(pin_dir: &Path) -> Result<Option<Self>, ProbeError> {
        let Ok(own) = cgroup::own_path() else { return Ok(None) };
        let root = cgroup::mount_point()?;
        for cgroup in own.ancestors().take_while(|path| path.starts_with(&root)) {
            let map = pins::dir_for(pin_dir, cgroup)?.join(MAP_SOCKETS);
            if !map.exists() {
                continue;
            }
            let sockets = HashMap::try_from(Map::LruHashMap(MapData::from_pin(&map)?))?;
            let cgroup = cgroup.to_owned();
            return Ok(Some(Self { sockets, links: Vec::new(), ebpf: None, cgroup, _own: None }));
        }
        Ok(None)
    }

    /// Loads the programs from the file `object` and attaches them to the cgroup v2 directory
    /// `cgroup`, as links that end with this value.
    ///
    /// # Errors
    ///
    /// When the file is not such an object, or the kernel refuses; see [`ProbeError`].
    pub fn attach(object: &Path, cgroup: &Path) -> Result<Self, ProbeError> {
        error::check_privilege()?;
        let dir = cgroup::open(cgroup)?;
        let mut ebpf = Ebpf::load_file(object).map_err(|source| ProbeError::Load {
            path: object.to_owned(),
            source: source.into(),
        })?;
        let mut links = Vec::new();
        for (name, direction, _) in SKB_PROGRAMS {
            let program = find(&mut ebpf, name)?;
            let link = attach_skb(program, direction, &dir);
            links.push((name, link.map_err(ProbeError::program(name))?));
        }
        let name = PROGRAM_SOCK_OPS;
        let link = attach_sock_ops(find(&mut ebpf, name)?, &dir);
        links.push((name, link.map_err(ProbeError::program(name))?));
        let map = ebpf.take_map(MAP_SOCKETS).ok_or(ProbeError::NotOurs { name: MAP_SOCKETS })?;
        let sockets = HashMap::try_from(map)?;
        Ok(Self { sockets, links, ebpf: Some(ebpf), cgroup: cgroup.to_owned(), _own: None })
    }

    /// What the kernel counted for the socket; `None` when it is not in the map: created outside of
    /// the cgroup, not connected yet, or forgotten because too many others were busier.
    pub fn read(&self, cookie: u64) -> Option<SocketCounters> {
        self.sockets.get(&cookie, 0).ok()
    }

    /// Drops the entry of a socket that is closed and accounted for.
    pub fn forget(&mut self, cookie: u64) {
        // It may be gone already: the map is an LRU.
        let _ = self.sockets.remove(&cookie);
    }

    /// The cgroup whose sockets are counted.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Programs, maps, and where they are attached; empty when another process pinned them.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn table(&self) -> Result<Table, ProbeError> {
        let mut table = Table::default();
        let Some(ebpf) = &self.ebpf else { return Ok(table) };
        let skb = SKB_PROGRAMS.into_iter().map(|(name, _, kind)| (name, kind));
        for (name, kind) in [(PROGRAM_SOCK_OPS, SOCK_OPS_KIND)].into_iter().chain(skb) {
            let program = ebpf.program(name).ok_or(ProbeError::NotOurs { name })?;
            let info = program.info().map_err(ProbeError::program(name))?;
            table.add(name, kind, &info, &self.cgroup)?;
        }
        Ok(table)
    }

    /// Pins programs, links and map in the directory `dir`, so that they outlive this process, and
    /// says what is pinned. Nothing stays when it fails.
    fn pin(self, dir: &Path) -> Result<Table, ProbeError> {
        pins::create(dir)?;
        let pinned = self.pin_all(dir);
        if pinned.is_err() {
            // The first error is the one to tell.
            let _ = pins::remove(dir);
        }
        pinned
    }

    fn pin_all(self, dir: &Path) -> Result<Table, ProbeError> {
        let table = self.table()?;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ProbeError::Pin { path, source }
        };
        if let Some(mut ebpf) = self.ebpf {
            for (name, program) in ebpf.programs_mut() {
                let path = dir.join(name);
                program.pin(&path).map_err(at(&path))?;
            }
        }
        for (name, link) in self.links {
            let path = dir.join(format!("{}{name}", pins::LINK_PREFIX));
            link.pin(&path).map_err(at(&path))?;
        }
        let path = dir.join(MAP_SOCKETS);
        self.sockets.pin(&path).map_err(at(&path))?;
        Ok(table)
    }

    fn describe(&self) -> String {
        let how = if self.ebpf.is_some() { "attached to" } else { "pinned for" };
        format!("{how} {}", self.cgroup.display())
    }
}

/// Names, directions and descriptions of the `cgroup_skb` programs.
const SKB_PROGRAMS: [(&str, CgroupSkbAttachType, &str); 2] = [
    (PROGRAM_INGRESS, CgroupSkbAttachType::Ingress, "cgroup_skb ingress"),
    (PROGRAM_EGRESS, CgroupSkbAttachType::Egress, "cgroup_skb egress"),
];

const SOCK_OPS_KIND: &str = "sock_ops";

fn find<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, ProbeError> {
    ebpf.program_mut(name).ok_or(ProbeError::NotOurs { name })
}

fn attach_skb(
    program: &mut Program,
    direction: CgroupSkbAttachType,
    cgroup: &File,
) -> Result<FdLink, ProgramError> {
    let program: &mut CgroupSkb = program.try_into()?;
    program.load()?;
    // A link takes no flags: it always shares the cgroup with others.
    let id = program.attach(cgroup, direction, CgroupAttachMode::Single)?;
    program.take_link(id)?.try_into().map_err(|_| ProgramError::NotAttached)
}

fn attach_sock_ops(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let program: &mut SockOps = program.try_into()?;
    program.load()?;
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    program.take_link(id)?.try_into().map_err(|_| ProgramError::NotAttached)
}
