//! What the figures were made on and with: kernel, processors, versions; nothing that names the
//! machine or its owner.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::run;

/// Programs whose versions matter, and how each is asked. Some answer on stderr.
const PROGRAMS: [(&str, &[&str]); 9] = [
    ("docker-registry", &["--version"]),
    ("nginx", &["-v"]),
    ("mbuffer", &["--version"]),
    ("skopeo", &["--version"]),
    ("curl", &["--version"]),
    ("containerd", &["--version"]),
    ("runc", &["--version"]),
    ("tc", &["-V"]),
    ("rustc", &["--version"]),
];

/// The machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
    memory_gib: u64,
    congestion: String,
    revision: String,
}

impl Machine {
    /// Looks.
    pub(super) fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let mut git = run::command("git");
        git.args(["describe", "--always", "--dirty"]).current_dir(run::repository());
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            processor: value(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism()?.get(),
            memory_gib: (kib + (1 << 19)) >> 20,
            congestion: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            revision: run::output(&mut git).unwrap_or_default().trim().to_owned(),
        })
    }

    /// A name for a directory: what it is, not whose.
    pub(super) fn name(&self) -> String {
        let kernel: Vec<&str> = self.kernel.split('.').take(2).collect();
        format!("{}cpu-{}gib-linux-{}", self.processors, self.memory_gib, kernel.join("."))
    }

    /// The revision of the sources.
    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    /// Everything, with the versions of the programs that are there and what else is known.
    pub(super) fn json(&self, more: &[(String, String)]) -> Value {
        let mut versions = Map::new();
        for (program, arguments) in PROGRAMS {
            if let Some(version) = version(program, arguments) {
                versions.insert(program.to_owned(), version.into());
            }
        }
        for (program, version) in more {
            versions.insert(program.clone(), version.clone().into());
        }
        json!({
            "kernel": self.kernel,
            "processor": self.processor,
            "processors": self.processors,
            "memory_gib": self.memory_gib,
            "congestion_control": {"lab": "cubic, by route", "machine": self.congestion},
            "revision": self.revision,
            "versions": versions,
        })
    }

    /// One sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "{} × {}, {} GiB of memory, Linux {}; revision {}.",
            self.processors, self.processor, self.memory_gib, self.kernel, self.revision
        )
    }
}

/// The first line that a program says of itself.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find(|line| !line.trim().is_empty())?.trim();
    Some(line.chars().take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_versions() {
        let machine = Machine::look().unwrap();
        assert!(machine.name().contains("cpu-") && !machine.name().contains('/'));
        let json = machine.json(&[("libx".into(), "1.2".into())]);
        assert_eq!(json["versions"]["libx"], "1.2");
        assert!(json["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    }
}
