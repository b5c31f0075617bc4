//! Builds the kernel programs into `xylem.bpf.o` beside the binaries; loads nothing.
//!
//! Two worlds have what it takes, and whichever is there is used: a nightly toolchain with
//! `rust-src`, which builds `core` along, or Debian's `rustc-web`, for which
//! `libstd-rust-web-dev-bpf` brings a `core` built already. Both link with `bpf-linker`.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::run::{self, Exit};
use crate::setup;

const FILE_NAME: &str = "xylem.bpf.o";
const TARGET: &str = "bpfel-unknown-none";

/// The last version that runs on the LLVM which every rustup toolchain brings; later ones want the
/// system to have one.
const LINKER_VERSION: &str = "0.10.1";

/// Changes when what is done here makes another object out of the same sources.
const RECIPE: &str = "1";

/// Debian's compiler; rustup has its own under the same name earlier on the path.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Something that compiles for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Toolchain {
    /// rustup's nightly with `rust-src`; where it lies.
    Nightly(PathBuf),
    /// Debian's `rustc-web`.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly(_) => f.write_str("nightly with rust-src"),
            Self::Debian => f.write_str("Debian's rustc-web"),
        }
    }
}

/// Builds the object, unless it is up to date, into `target/release` and `target/debug`. Installs
/// what is missing and says so.
///
/// # Errors
///
/// [`Exit`] with the remedy when there is no toolchain and none can be installed.
pub(crate) fn build() -> Result<()> {
    let target = run::target_dir()?;
    let stamp = target.join("bpf").join("built-from");
    let sources = sources_hash(&run::repository())?;
    let outputs = ["release", "debug"].map(|profile| target.join(profile).join(FILE_NAME));
    let built_from = fs::read_to_string(&stamp).unwrap_or_default();
    if built_from == sources && outputs.iter().all(|output| output.is_file()) {
        return Ok(());
    }
    let toolchain = find_or_install()?;
    let linker = linker(&target)?;
    eprintln!("building the kernel programs with {toolchain}");
    run::show(&mut cargo_build(&toolchain, &linker, &target)?)?;
    let built = target.join("bpf").join(TARGET).join("release").join("xylem-probes");
    for output in &outputs {
        put(&built, output)?;
    }
    fs::write(&stamp, sources).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Copies a file so that nobody sees half of it.
fn put(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    let copied = fs::create_dir_all(to.parent().unwrap_or(to))
        .and_then(|()| fs::copy(from, &part))
        .and_then(|_| fs::rename(&part, to));
    copied.with_context(|| format!("cannot write {}", to.display()))
}

/// Everything that the object is made of: the crate, the library's version, and the way of doing
/// it.
fn sources_hash(repository: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    for file in ["ebpf/Cargo.toml", "ebpf/src/lib.rs", "ebpf/src/main.rs"] {
        let text =
            fs::read(repository.join(file)).with_context(|| format!("cannot read {file}"))?;
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    let lock =
        fs::read_to_string(repository.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let packages = lock.split("\n\n").filter(|package| package.contains("name = \"aya-ebpf"));
    packages.for_each(|package| hash.update(package));
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn find_or_install() -> Result<Toolchain> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let mut tried = Vec::new();
    if run::has("apt-get") {
        match setup::debian_packages(&DEBIAN_PACKAGES) {
            Ok(()) => tried.push("Debian's packages came without a compiler for it".to_owned()),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    if find().is_none()
        && run::has("rustup")
        && let Err(error) = setup::nightly_with_source()
    {
        tried.push(format!("{error:#}"));
    }
    let missing = || {
        let message = format!(
            "no toolchain for the kernel programs; either `apt-get install {}` as root, or `rustup \
             toolchain install nightly --component rust-src` ({})",
            DEBIAN_PACKAGES.join(" "),
            tried.join("; ")
        );
        Exit { code: 2, message }.into()
    };
    find().ok_or_else(missing)
}

fn find() -> Option<Toolchain> {
    nightly().or_else(|| has_core(Path::new(DEBIAN_RUSTC)).then_some(Toolchain::Debian))
}

fn nightly() -> Option<Toolchain> {
    let sysroot =
        run::output(run::command("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    let sysroot = PathBuf::from(sysroot.ok()?.trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    core.is_file().then_some(Toolchain::Nightly(sysroot))
}

/// Whether the compiler has a `core` for the kernel's machine.
fn has_core(rustc: &Path) -> bool {
    let Some(rustc) = rustc.to_str().filter(|_| rustc.is_file()) else { return false };
    let dir = run::output(run::command(rustc).args(["--print=target-libdir", "--target", TARGET]));
    let Some(entries) = dir.ok().and_then(|dir| fs::read_dir(dir.trim()).ok()) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Finds `bpf-linker` of the right version, or installs it below the target directory.
fn linker(target: &Path) -> Result<PathBuf> {
    let tools = target.join("tools");
    let own = tools.join("bin/bpf-linker");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("bpf-linker"));
    if let Some(found) = [own.clone()].into_iter().chain(on_path).find(|linker| is_right(linker)) {
        return Ok(found);
    }
    eprintln!("installing bpf-linker {LINKER_VERSION} into {} (a minute or two)", tools.display());
    let mut install = run::cargo();
    install.args(["install", "--quiet", "bpf-linker", "--version", LINKER_VERSION, "--locked"]);
    install.arg("--root").arg(&tools).arg("--target-dir").arg(tools.join("build"));
    run::show(&mut install).map_err(|error| {
        let message = format!(
            "{error:#}; without a registry at hand put a bpf-linker {LINKER_VERSION} on the path"
        );
        Exit { code: 2, message }
    })?;
    // The compiled crates are of no more use.
    let _ = fs::remove_dir_all(tools.join("build"));
    Ok(own)
}

fn is_right(linker: &Path) -> bool {
    let Some(program) = linker.to_str().filter(|_| linker.is_file()) else { return false };
    let version = run::output(run::command(program).arg("--version"));
    version.is_ok_and(|version| version.trim().ends_with(LINKER_VERSION))
}

fn cargo_build(toolchain: &Toolchain, linker: &Path, target: &Path) -> Result<Command> {
    let mut cargo = match toolchain {
        Toolchain::Nightly(_) => {
            let mut rustup = run::command("rustup");
            rustup.args(["run", "nightly", "cargo"]);
            rustup
        }
        Toolchain::Debian => run::cargo(),
    };
    cargo.current_dir(run::repository());
    cargo.args(["build", "--quiet", "--release", "--target", TARGET, "-p", "xylem-ebpf"]);
    cargo.args(["--bin", "xylem-probes", "--features", "programs", "--target-dir"]);
    cargo.arg(target.join("bpf"));
    // bpf-linker loads an LLVM at run time, and takes the first it finds here.
    let llvm = match toolchain {
        Toolchain::Nightly(sysroot) => sysroot.join("lib"),
        Toolchain::Debian => own_sysroot()?.join("lib"),
    };
    let libraries = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let libraries = env::join_paths([llvm].into_iter().chain(env::split_paths(&libraries)))?;
    cargo.env("LD_LIBRARY_PATH", libraries);
    match toolchain {
        Toolchain::Nightly(_) => {
            cargo.arg("-Zbuild-std=core").env_remove("RUSTC").env_remove("CARGO");
        }
        Toolchain::Debian => {
            // The programs need one unstable feature: inline assembly for this target.
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
    }
    let flags = format!(
        "--cfg=bpf_target_arch=\"{}\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf",
        env::consts::ARCH
    );
    // With a --target given they are for the programs alone, not for build scripts.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env_remove("RUSTFLAGS");
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    // The linker does what the workspace's profile asks of LLVM, over the whole object.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    Ok(cargo)
}

/// Where the toolchain lies that built this.
fn own_sysroot() -> Result<PathBuf> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let sysroot = run::output(run::command(&rustc).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_the_sources() {
        let hash = sources_hash(&run::repository()).unwrap();
        assert_eq!(hash.len(), 64);
        assert_eq!(hash, sources_hash(&run::repository()).unwrap());
        assert!(sources_hash(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_compiler_that_is_not_there_has_no_core() {
        assert!(!has_core(Path::new("/nonexistent/rustc")));
        assert!(!is_right(Path::new("/nonexistent/bpf-linker")));
    }
}
