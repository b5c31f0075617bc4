//! What a pull needs of this node, looked at one by one, and what to do about what is missing.
//! Looks only; a file in the store comes and goes.

mod remedy;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};
use xylem_protocol::limits::{
    CLOCK_OFF_MAX_MS, CONNECTIONS_MAX, FLOWS_MAX, OPEN_BLOBS_MAX, PING_WAIT_MS, STORE_FREE_MIN,
};

use std::rc::Rc;

use super::Agent;
use crate::oneline::chain;
use crate::origin::{Origin, OriginError, Ping, Repository};
use crate::ring::socket::lockable_bytes;

/// Where this is asked for.
pub(super) const PATH: &str = "/xylem/v1/doctor";

/// Descriptors beside those of connections and blobs: the ring, the store, control.
const DESCRIPTORS_OTHER: u64 = 64;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    name: String,
    /// `null`: does not apply; with a remedy, a warning.
    ok: Option<bool>,
    detail: String,
    remedy: Option<String>,
}

impl Check {
    fn new(name: &str, ok: Option<bool>, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok, detail: detail.into(), remedy: None }
    }

    fn good(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, Some(true), detail)
    }

    fn bad(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, Some(false), detail) }
    }

    fn warning(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, None, detail) }
    }
}

/// All checks, as they are answered.
#[derive(Debug, Serialize)]
pub(super) struct Checks {
    checks: Vec<Check>,
}

/// A registry's answer, between two looks at this node's clock.
struct Told {
    by: String,
    date: SystemTime,
    asked: SystemTime,
    answered: SystemTime,
}

impl Agent {
    /// Looks at everything; takes as long as the slowest registry, which is bounded.
    pub(super) async fn doctor(self: &Rc<Self>) -> Checks {
        let (registries, store) = tokio::join!(self.check_registries(), self.check_store());
        let (registries, told) = registries;
        let mut checks = vec![self.check_ring(), self.check_probes(), self.check_link()];
        checks.extend(registries);
        checks.extend([store, clock(told), open_files()]);
        Checks { checks }
    }

    fn check_ring(&self) -> Check {
        const NAME: &str = "io_uring";
        let (held, limit) = (self.settings.memory_bytes, lockable_bytes());
        let limit = if limit == u64::MAX { "no limit".to_owned() } else { mib(limit) };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim();
        if !self.settings.locked {
            let detail = format!("Linux {kernel}, {} of slots, not registered", mib(held));
            let remedy = "the kernel looks the slots up at each operation: raise LimitMEMLOCK= \
                          (ulimit -l) and leave out --lock off";
            return Check::warning(NAME, detail, remedy);
        }
        let detail =
            format!("Linux {kernel}, {} of slots registered; lockable: {limit}", mib(held));
        if self.settings.is_memory_reduced {
            let remedy = "8 MiB could not be locked: raise LimitMEMLOCK= (ulimit -l)";
            return Check::warning(NAME, detail, remedy);
        }
        Check::good(NAME, detail)
    }

    fn check_probes(&self) -> Check {
        const NAME: &str = "probes";
        let (mode, reason) = self.hops.probes();
        if mode == "bpf" {
            return Check::good(NAME, reason);
        }
        if reason.starts_with("--probes off") {
            return Check::new(NAME, None, "off by --probes: hop figures come from TCP_INFO");
        }
        let (what, remedy) = reason.split_once("; ").unwrap_or((&reason, "xylemd probes load"));
        Check::warning(NAME, format!("hop figures come from TCP_INFO: {what}"), remedy)
    }

    fn check_link(&self) -> Check {
        const NAME: &str = "control link";
        let Some(control) = &self.control else {
            let detail = "none is configured: every image comes straight from the registry";
            return Check::new(NAME, None, detail);
        };
        let (address, link) = (control.address(), control.state());
        let since = format!("{} s", link.since.elapsed().as_secs());
        match (control.is_connected(), link.error) {
            (true, _) => Check::good(NAME, format!("{address}, connected for {since}")),
            (false, error) => {
                let error = error.unwrap_or_else(|| "not connected yet".to_owned());
                let detail = format!("{address}, not connected for {since}: {error}");
                let remedy = "start xylem-control there, or correct --control; pulls go on from \
                              the registry";
                Check::bad(NAME, detail, remedy)
            }
        }
    }

    async fn check_registries(self: &Rc<Self>) -> (Vec<Check>, Option<Told>) {
        let mut checks = Vec::new();
        let known = self.registries.known();
        match self.registries.default_origin() {
            Origin::Layout(layout) => {
                let detail = format!("oci:{}", layout.path().display());
                checks.push(Check::good("registry", detail));
            }
            Origin::None if known.is_empty() && !self.registries.takes_all() => {
                let detail = "none is configured: only what is here and on other nodes is served";
                let remedy = "name one with --upstream or --registry";
                checks.push(Check::warning("registry", detail, remedy));
            }
            _ => {}
        }
        let mut asking = JoinSet::new();
        let mut order = 0_usize;
        for (host, _) in known {
            let Ok(repository) = self.registries.find(Some(&host), "ping") else { continue };
            for turn in 0..=repository.origin().mirrors() {
                let repository = repository.clone();
                let host = host.clone();
                asking.spawn_local(async move { (order, ping(&repository, &host, turn).await) });
                order += 1;
            }
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(order, _)| *order);
        let mut told = None;
        for (_, (check, date)) in answers {
            checks.extend(check);
            told = told.or(date);
        }
        (checks, told)
    }

    async fn check_store(&self) -> Check {
        const NAME: &str = "store";
        let store = self.store.clone();
        let looked = spawn_blocking(move || (store.space(), store.try_write())).await;
        let Ok((space, written)) = looked else { return Check::new(NAME, None, "interrupted") };
        let direct = match written {
            Ok(direct) => direct,
            Err(error) => {
                let told = chain(&error);
                let (what, remedy) = told.split_once("; ").unwrap_or((&told, "see to that path"));
                return Check::bad(NAME, what, remedy);
            }
        };
        let how = if direct { "O_DIRECT" } else { "buffered, O_DIRECT is refused there" };
        let Some(space) = space else { return Check::good(NAME, format!("writable ({how})")) };
        let percent = space.free_bytes.saturating_mul(100) / space.total_bytes.max(1);
        let (free, total) = (gib(space.free_bytes), gib(space.total_bytes));
        let detail = format!("{free} of {total} GiB free ({percent} %), writable ({how})");
        if space.free_bytes < STORE_FREE_MIN {
            let remedy = "free space there or choose another --store: a blob that does not fit \
                          fails with 507";
            return Check::warning(NAME, detail, remedy);
        }
        Check::good(NAME, detail)
    }
}

/// Asks a registry, or a mirror of it.
async fn ping(repository: &Repository, host: &str, turn: u32) -> (Option<Check>, Option<Told>) {
    let Some(registry) = repository.origin().registry() else { return (None, None) };
    let (endpoint, is_mirror) = (registry.endpoint(turn), turn < registry.mirrors());
    let name = if is_mirror { format!("mirror of {host}") } else { format!("registry {host}") };
    let asked = SystemTime::now();
    let answer = endpoint.ping(Duration::from_millis(PING_WAIT_MS)).await;
    let answered = SystemTime::now();
    let base = endpoint.base();
    let date = answer.as_ref().ok().and_then(|ping| ping.date);
    let told = date.map(|date| Told { by: base.to_owned(), date, asked, answered });
    let is_default = repository.host().is_none();
    let check = match judged(base, answer, is_default) {
        Ok(detail) => Check::good(&name, detail),
        // What a mirror has not comes from the registry.
        Err((detail, remedy)) if is_mirror => Check::warning(&name, detail, remedy),
        Err((detail, remedy)) => Check::bad(&name, detail, remedy),
    };
    (Some(check), told)
}

fn judged(
    base: &str,
    answer: Result<Ping, OriginError>,
    is_default: bool,
) -> Result<String, (String, String)> {
    match answer {
        Ok(Ping { status: 200, .. }) => Ok(format!("{base} answers 200")),
        Ok(Ping { status: status @ (401 | 403), .. }) => {
            Ok(format!("{base} answers {status}: it wants credentials, which clients bring"))
        }
        Ok(Ping { status, .. }) => {
            let detail = format!("{base} answers {status} to /v2/");
            Err((detail, remedy::of_status(base, status).to_owned()))
        }
        Err(OriginError::Timeout(_)) => {
            let detail = format!("{base} gives no answer within {PING_WAIT_MS} ms");
            Err((detail, "is there a route to it, or a firewall or proxy in the way?".to_owned()))
        }
        Err(error) => {
            let detail = chain(&error);
            let remedy = remedy::of_failure(base, &detail, is_default);
            Err((detail, remedy))
        }
    }
}

/// Whether this node's clock is that of a registry: certificates and tokens depend on it.
fn clock(told: Option<Told>) -> Check {
    const NAME: &str = "node's clock";
    let Some(Told { by, date, asked, answered }) = told else {
        return Check::new(NAME, None, "no registry's answer to compare it with");
    };
    // The date is cut to a second.
    let ahead = asked.duration_since(date + Duration::from_secs(1)).unwrap_or_default();
    let behind = date.duration_since(answered).unwrap_or_default();
    let (off, how) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    if off > Duration::from_millis(CLOCK_OFF_MAX_MS) {
        let detail = format!("{} s {how} {by}", off.as_secs());
        let remedy = "set it by NTP (timedatectl set-ntp true): certificates and tokens are \
                      refused by a wrong one";
        return Check::bad(NAME, detail, remedy);
    }
    Check::good(NAME, format!("within {} s of {by}", off.as_secs() + 1))
}

/// Whether there are descriptors for all connections that the node would take.
fn open_files() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    judge_open_files(limit.current, limit.maximum)
}

fn judge_open_files(soft: Option<u64>, hard: Option<u64>) -> Check {
    const NAME: &str = "open files";
    let blobs = u64::from(OPEN_BLOBS_MAX) + 3 * u64::from(FLOWS_MAX);
    let need = u64::from(CONNECTIONS_MAX) + blobs + DESCRIPTORS_OTHER;
    let show = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    let detail = format!("soft {}, hard {}; {need} can be needed", show(soft), show(hard));
    match soft {
        Some(soft) if soft < need => {
            let detail = format!("{detail} for {CONNECTIONS_MAX} connections");
            Check::warning(NAME, detail, format!("raise LimitNOFILE= (ulimit -n) to {need}"))
        }
        _ => Check::good(NAME, detail),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// One decimal of them.
fn gib(bytes: u64) -> String {
    let tenths = bytes / (1 << 20) * 10 / 1024;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_off_by_a_minute() {
        let zero = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let at = |off: i64| match u64::try_from(off) {
            Ok(ahead) => zero + Duration::from_secs(ahead),
            Err(_) => zero - Duration::from_secs(off.unsigned_abs()),
        };
        let check = |off: i64| {
            clock(Some(Told { by: "r".into(), date: zero, asked: at(off), answered: at(off) }))
        };
        for good in [-60, -1, 0, 1, 61] {
            assert_eq!(check(good).ok, Some(true), "{good}");
        }
        assert_eq!(check(120).detail, "119 s ahead of r");
        assert_eq!(check(-61).detail, "61 s behind r");
        assert_eq!((clock(None).ok, check(-61).ok), (None, Some(false)));
    }

    #[test]
    fn descriptors() {
        assert_eq!(judge_open_files(Some(1024), Some(4096)).ok, None);
        assert!(judge_open_files(Some(1024), None).remedy.unwrap().contains("LimitNOFILE="));
        assert_eq!(judge_open_files(Some(20_000), None).ok, Some(true));
        assert_eq!(judge_open_files(None, None).ok, Some(true));
        assert_eq!((gib(3 << 29), mib(8 << 20)), ("1.5".to_owned(), "8 MiB".to_owned()));
    }
}
