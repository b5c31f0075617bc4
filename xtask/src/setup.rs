//! Installs the packages that a command needs, and says so; knows nothing of what they are for.

use anyhow::{Result, ensure};

use crate::{run, sys};

/// Installs those of the named Debian packages that are missing. Needs root and a package registry.
pub(crate) fn debian_packages(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(sys::is_root(), "not root, so these packages cannot be installed: {missing:?}");
    eprintln!("installing Debian packages: {}", missing.join(" "));
    let mut install = run::command("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run::output(&mut install).map(|_| ())
}

fn installed(package: &str) -> bool {
    let mut query = run::command("dpkg-query");
    query.args(["-W", "-f", "${Status}", package]);
    run::output(&mut query).is_ok_and(|status| status.contains("install ok installed"))
}

/// Everything the demo wants beside Rust.
pub(crate) fn for_demo() -> Result<()> {
    debian_packages(&["iproute2"])
}
