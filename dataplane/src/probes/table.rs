//! What is loaded, as rows for people and as JSON.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::ProgramInfo;
use serde::Serialize;

use super::{ProbeError, mounts};

/// Bytes of one BPF instruction.
const INSTRUCTION_BYTES: u32 = 8;

/// One program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramRow {
    /// Its name.
    pub program: String,
    /// Type and, where there are several, direction.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The kernel's id, as `bpftool` shows it.
    pub id: u32,
    /// The cgroup it is attached to.
    pub attached: String,
    /// Instructions after the verifier; 0 where the kernel does not say.
    pub instructions: u32,
}

/// One map.
#[derive(Clone, Debug, Serialize)]
pub struct MapRow {
    /// Its name.
    pub map: String,
    /// The kernel's id.
    pub id: u32,
    /// Size of a key.
    pub key_bytes: u32,
    /// Size of a value.
    pub value_bytes: u32,
    /// Most entries it takes.
    pub entries_max: u32,
    /// Memory it holds, by the kernel's account; 0 where it does not say.
    pub memory_bytes: u64,
}

/// Programs and maps that belong together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// The programs.
    pub programs: Vec<ProgramRow>,
    /// Their maps.
    pub maps: Vec<MapRow>,
}

impl Table {
    /// Adds a program and the maps it uses that are not listed yet.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        kind: &'static str,
        info: &ProgramInfo,
        cgroup: &Path,
    ) -> Result<(), ProbeError> {
        self.programs.push(ProgramRow {
            program: name.to_owned(),
            kind,
            id: info.id(),
            attached: cgroup.display().to_string(),
            instructions: info.size_translated().unwrap_or(0) / INSTRUCTION_BYTES,
        });
        let ids = info.map_ids().map_err(ProbeError::program(name))?;
        for id in ids.unwrap_or_default() {
            if self.maps.iter().all(|map| map.id != id) {
                self.maps.push(map_row(&MapInfo::from_id(id)?)?);
            }
        }
        Ok(())
    }
}

fn map_row(info: &MapInfo) -> Result<MapRow, ProbeError> {
    let fd = info.fd()?;
    let fdinfo = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let memory = mounts::read(Path::new(&fdinfo)).unwrap_or_default();
    Ok(MapRow {
        map: info.name_as_str().unwrap_or_default().to_owned(),
        id: info.id(),
        key_bytes: info.key_size(),
        value_bytes: info.value_size(),
        entries_max: info.max_entries(),
        memory_bytes: memlock(&memory),
    })
}

fn memlock(fdinfo: &str) -> u64 {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"));
    value.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14} {:<19} {:>6} {:>12}  attached to",
            "program", "type", "id", "instructions"
        )?;
        for row in &self.programs {
            let ProgramRow { program, kind, id, attached, instructions } = row;
            writeln!(f, "{program:<14} {kind:<19} {id:>6} {instructions:>12}  {attached}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<14} {:>6} {:>6} {:>6} {:>9} {:>10}",
            "map", "id", "key", "value", "entries", "memory"
        )?;
        for row in &self.maps {
            let MapRow { map, id, key_bytes, value_bytes, entries_max, memory_bytes } = row;
            let memory = format!("{} KiB", memory_bytes >> 10);
            writeln!(
                f,
                "{map:<14} {id:>6} {:>6} {:>6} {entries_max:>9} {memory:>10}",
                format!("{key_bytes} B"),
                format!("{value_bytes} B"),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_fdinfo() {
        assert_eq!(memlock("pos:\t0\nmemlock:\t1508224\nmap_id:\t3\n"), 1_508_224);
        assert_eq!(memlock("pos:\t0\n"), 0);
    }

    #[test]
    fn the_table_shows_each_row() {
        let table = Table {
            programs: vec![ProgramRow {
                program: "xylem_egress".to_owned(),
                kind: "cgroup_skb egress",
                id: 12,
                attached: "/sys/fs/cgroup/xylem".to_owned(),
                instructions: 182,
            }],
            maps: vec![MapRow {
                map: "SOCKETS".to_owned(),
                id: 3,
                key_bytes: 8,
                value_bytes: 128,
                entries_max: 8192,
                memory_bytes: 1 << 20,
            }],
        };
        let text = table.to_string();
        assert!(text.contains("xylem_egress   cgroup_skb egress       12          182"), "{text}");
        assert!(
            text.contains("SOCKETS             3    8 B  128 B      8192   1024 KiB"),
            "{text}"
        );
    }
}
