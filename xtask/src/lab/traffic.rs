//! What has passed over each host's link, read at the switch; whose bytes they were it cannot tell.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::{Lab, network};
use crate::sys;

/// The table of all devices of one namespace: a line each, even of a lab of `HOSTS_MAX`.
const TABLE_BYTES_MAX: usize = 64 << 10;

/// Bytes on one host's link so far. A burst that the kernel sends as one packet has one header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// From the host.
    pub(crate) sent_bytes: u64,
    /// To the host.
    pub(crate) received_bytes: u64,
}

/// The counters of a lab's switch.
#[derive(Debug)]
pub(crate) struct Traffic {
    table: File,
    hosts: usize,
}

impl Traffic {
    /// Opens the counters; they can be read from anywhere then.
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        let switch = network::open(&network::Switch::namespace(&lab.tag))?;
        let table = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::enter_netns(&switch).context("cannot enter the switch's namespace")?;
                // Which namespace it tells of is settled when it is opened.
                File::open("/proc/thread-self/net/dev").context("cannot read the counters")
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Self { table, hosts: lab.hosts.len() })
    }

    /// What has passed so far, in the order of the hosts.
    pub(crate) fn read(&self) -> Result<Vec<Passed>> {
        let mut text = vec![0; TABLE_BYTES_MAX];
        let mut filled = 0;
        loop {
            let read = self.table.read_at(&mut text[filled..], filled as u64)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        let text = String::from_utf8_lossy(&text[..filled]);
        (0..self.hosts)
            .map(|index| of_port(&text, index).with_context(|| format!("no port {index}")))
            .collect()
    }
}

/// The line of a port: what it has received is what its host has sent.
fn of_port(table: &str, index: usize) -> Option<Passed> {
    let name = network::port(index);
    let mut lines = table.lines().filter_map(|line| line.split_once(':'));
    let (_, counts) = lines.find(|(device, _)| device.trim() == name)?;
    let numbers: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
    Some(Passed { sent_bytes: *numbers.first()?, received_bytes: *numbers.get(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_whole_name() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    \
                     lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                     port10: 9 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n \
                     port1:7001 5 0 0 0 0 0 0 6002 4 0 0 0 0 0 0\n";
        let passed = Passed { sent_bytes: 7001, received_bytes: 6002 };
        assert_eq!(of_port(table, 1), Some(passed), "port10 comes first and is another");
        assert_eq!(of_port(table, 2), None);
    }
}
