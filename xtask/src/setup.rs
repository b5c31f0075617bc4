//! Installs the packages that a command needs, and says so; knows nothing of what they are for.

use std::path::{Path, PathBuf};

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
    if apt_get_install(&missing).is_ok() {
        return Ok(());
    }
    // A fresh machine has no lists yet, or stale ones.
    eprintln!("updating the package lists");
    run::output(run::command("apt-get").args(["update", "-q"]))?;
    apt_get_install(&missing)
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    let mut install = run::command("apt-get");
    // Somebody else may be installing.
    install.args(["-o", "DPkg::Lock::Timeout=300"]);
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run::output(&mut install).map(|_| ())
}

/// Installs rustup's nightly toolchain with the library's source, for the user who runs this.
pub(crate) fn nightly_with_source() -> Result<()> {
    eprintln!("installing the nightly Rust toolchain with rust-src, by rustup");
    let mut install = run::command("rustup");
    install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    install.args(["--component", "rust-src", "--no-self-update"]);
    run::output(&mut install).map(|_| ())
}

/// A Python in a virtual environment of its own that has these packages of PyPI.
pub(crate) fn python_with(environment: &Path, packages: &[&str]) -> Result<PathBuf> {
    let python = environment.join("bin/python");
    let mut ask = run::command(&python.to_string_lossy());
    ask.args(["-m", "pip", "freeze"]);
    let has = python.exists().then(|| run::output(&mut ask)).transpose().unwrap_or_default();
    let has = has.unwrap_or_default();
    if packages.iter().all(|package| has.lines().any(|line| line == *package)) {
        return Ok(python);
    }
    eprintln!("installing from PyPI, into the target directory: {}", packages.join(" "));
    run::output(run::command("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let mut pip = run::command(&python.to_string_lossy());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    run::output(&mut pip)?;
    Ok(python)
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
