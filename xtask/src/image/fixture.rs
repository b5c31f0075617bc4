//! Images as others make them: Debian packages, Python wheels, layers by `umoci`; not the demo's.
//!
//! A recipe says all that decides about the bytes, save what Debian's archive holds today. An
//! image is built once, kept in the cache under the fingerprint of its recipe, and verified
//! whenever it is taken from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::layout::{CREATED, EPOCH_S, architecture};
use crate::cluster::image::{hash, hex};
use crate::{run, setup};

/// Raise it when the same recipe is to be built anew.
const FORMAT: &str = "xylem fixture 1";
const SUITE: &str = "bookworm";
/// The tag of every fixture.
const TAG: &str = "latest";
/// The path below which Debian's Python 3.11 looks for what is not Debian's.
const WHEELS: &str = "usr/local/lib/python3.11/dist-packages";
const HANDLER: &str = "opt/fn/handler.py";
/// What the images with Python run.
const HANDLER_TEXT: &str = include_str!("handler.py");
/// Where a layout has its blobs.
const BLOBS: &str = "blobs/sha256";

/// How a layer comes about.
#[derive(Debug)]
enum Layer {
    /// Debian packages with a variant of `mmdebstrap` and hooks over what it has made.
    Debian {
        variant: &'static str,
        packages: &'static str,
        without: &'static str,
        hook: &'static str,
    },
    /// Wheels for CPython 3.11, their versions pinned.
    Wheels(&'static [&'static str]),
    /// A small Python program.
    Handler,
}

/// What an image is made of.
#[derive(Debug)]
pub(crate) struct Recipe {
    name: &'static str,
    layers: &'static [Layer],
    entrypoint: &'static str,
    argument: &'static str,
}

/// A static busybox: 2 MB in one layer.
pub(crate) const TINY: Recipe = Recipe {
    name: "tiny",
    layers: &[Layer::Debian {
        variant: "extract",
        packages: "busybox-static",
        without: "/usr/share/*",
        hook: "ln -s busybox $1/bin/sh",
    }],
    entrypoint: "/bin/busybox",
    argument: "id",
};

/// Python without its libraries' libraries: 59 MB in two layers, 23 MB compressed.
pub(crate) const SMALL: Recipe = Recipe {
    name: "small",
    layers: &[
        Layer::Debian {
            variant: "extract",
            packages: "base-files,libc6,dash,coreutils,python3-minimal,python3.11-minimal,\
                       libpython3-stdlib",
            without: "/usr/share/{doc,man,locale}/*",
            hook: "ln -sf dash $1/usr/bin/sh; rm -rf $1/usr/lib/*/gconv",
        },
        Layer::Handler,
    ],
    entrypoint: "/usr/bin/python3",
    argument: "/opt/fn/handler.py",
};

/// Python with what data people use: 800 MB in seven layers, 258 MB compressed.
pub(crate) const BIG: Recipe = Recipe {
    name: "big",
    layers: &[
        Layer::Debian {
            variant: "minbase",
            packages: "python3",
            without: "/usr/share/{doc,man,locale}/*",
            hook: "rm -rf $1/var/cache/ldconfig $1/var/log/*",
        },
        Layer::Wheels(&["numpy==2.2.6", "scipy==1.15.3"]),
        Layer::Wheels(&[
            "pandas==2.2.3",
            "python-dateutil==2.9.0.post0",
            "pytz==2025.2",
            "six==1.17.0",
            "tzdata==2025.2",
        ]),
        Layer::Wheels(&["pyarrow==20.0.0"]),
        Layer::Wheels(&[
            "scikit-learn==1.6.1",
            "joblib==1.5.1",
            "threadpoolctl==3.6.0",
            "matplotlib==3.10.3",
            "pillow==11.2.1",
            "contourpy==1.3.2",
            "cycler==0.12.1",
            "fonttools==4.58.1",
            "kiwisolver==1.4.8",
            "packaging==25.0",
            "pyparsing==3.2.3",
        ]),
        Layer::Wheels(&["numba==0.61.2", "llvmlite==0.44.0"]),
        Layer::Handler,
    ],
    entrypoint: "/usr/bin/python3",
    argument: "/opt/fn/handler.py",
};

/// The image's layout in the cache, built if it is not there or not whole.
pub(crate) fn cached(recipe: &Recipe) -> Result<PathBuf> {
    let cache = super::cache_dir()?.join("images");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let out = cache.join(format!("{}-{}", recipe.name, recipe.fingerprint()));
    if out.exists() {
        match verify(&out) {
            Ok(()) => return Ok(out),
            Err(error) => eprintln!("{} is built again: {error:#}", recipe.name),
        }
        fs::remove_dir_all(&out)?;
    }
    let partial = cache.join(format!("{}-partial-{}", recipe.name, std::process::id()));
    let built = recipe.build(&partial);
    let built = built.and_then(|()| take(&partial.join("layout"), &out));
    let _ = fs::remove_dir_all(&partial);
    built.with_context(|| format!("cannot build the image `{}`", recipe.name))?;
    remove_stale(&cache, recipe, &out);
    Ok(out)
}

/// Moves what was built to its place, where somebody else may have put the same in between.
fn take(built: &Path, out: &Path) -> Result<()> {
    fs::rename(built, out).or_else(|error| if out.exists() { Ok(()) } else { Err(error) })?;
    Ok(())
}

/// Removes what earlier recipes of the same name have made; what is being made stays.
fn remove_stale(cache: &Path, recipe: &Recipe, out: &Path) {
    let prefix = format!("{}-", recipe.name);
    for entry in fs::read_dir(cache).into_iter().flatten().filter_map(|entry| entry.ok()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = name.strip_prefix(&prefix).is_some_and(|rest| !rest.starts_with("partial-"));
        if own && entry.path() != out {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies the image's layout to a directory that must not be there yet.
pub(super) fn export(recipe: &Recipe, out: &Path) -> Result<()> {
    let from = cached(recipe)?;
    let blobs = fs::read_dir(from.join(BLOBS))?.filter_map(|entry| entry.ok());
    let blobs = blobs.map(|entry| Path::new(BLOBS).join(entry.file_name()));
    fs::create_dir_all(out.join(BLOBS)).with_context(|| format!("no {}", out.display()))?;
    for file in blobs.chain(["index.json", "oci-layout"].map(PathBuf::from)) {
        run::go_on()?;
        fs::copy(from.join(&file), out.join(&file))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Fails unless every blob of a layout has its digest and what the manifests name is there.
fn verify(layout: &Path) -> Result<()> {
    let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blobs = layout.join(BLOBS);
    for entry in fs::read_dir(&blobs)?.filter_map(|entry| entry.ok()) {
        run::go_on()?;
        let name = entry.file_name();
        let (found, _) = hash(&entry.path())?;
        ensure!(name.to_str() == Some(&found), "{} has the digest {found}", name.display());
    }
    let path = |descriptor: &Value| {
        let hex = descriptor["digest"].as_str()?.strip_prefix("sha256:")?;
        Some(blobs.join(hex))
    };
    let index = read(layout.join("index.json"))?;
    let manifest = read(path(&index["manifests"][0]).context("no manifest in the layout")?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    for blob in layers.iter().chain([&manifest["config"]]) {
        let path = path(blob).context("a descriptor without a digest")?;
        ensure!(path.exists(), "{} is not there", path.display());
    }
    Ok(())
}

impl Recipe {
    fn fingerprint(&self) -> String {
        let own = architecture();
        let text = format!("{FORMAT} {SUITE} {own} {EPOCH_S} {HANDLER_TEXT} {self:?}");
        let mut hex = hex(&Sha256::digest(text));
        hex.truncate(16);
        hex
    }

    /// Builds the layout in `work`, which is to be removed afterwards.
    fn build(&self, work: &Path) -> Result<()> {
        setup::debian_packages(&["mmdebstrap", "umoci"])?;
        eprintln!("building the image `{}`", self.name);
        fs::create_dir_all(work)?;
        let layout = work.join("layout");
        let image = format!("{}:{TAG}", layout.display());
        umoci(&["init", "--layout", &layout.to_string_lossy()])?;
        umoci(&["new", "--image", &image])?;
        for layer in self.layers {
            let tar = work.join("layer.tar");
            layer.build(work, &tar)?;
            let tar = tar.to_string_lossy();
            // It compresses with gzip and describes the layer in config and manifest.
            umoci(&["raw", "add-layer", "--history.created", CREATED, "--image", &image, &tar])?;
            fs::remove_file(&*tar)?;
        }
        let (entrypoint, argument) = (self.entrypoint, self.argument);
        umoci(
            &["config", "--image", &image, "--no-history", "--created", CREATED]
                .into_iter()
                .chain(["--config.entrypoint", entrypoint, "--config.cmd", argument])
                .chain(["--config.env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"])
                .chain([
                    "--config.workingdir",
                    "/",
                    "--architecture",
                    architecture(),
                    "--os",
                    "linux",
                ])
                .collect::<Vec<_>>(),
        )?;
        umoci(&["gc", "--layout", &layout.to_string_lossy()])?;
        verify(&layout)
    }
}

impl Layer {
    fn build(&self, work: &Path, tar: &Path) -> Result<()> {
        let tree = work.join("tree");
        match self {
            Self::Debian { variant, packages, without, hook } => {
                return debian(tar, variant, packages, without, hook);
            }
            Self::Wheels(wheels) => install(&tree.join(WHEELS), wheels)?,
            Self::Handler => {
                let file = tree.join(HANDLER);
                fs::create_dir_all(file.parent().context("a path without a parent")?)?;
                fs::write(file, HANDLER_TEXT)?;
            }
        }
        let mut archive = run::command("tar");
        archive.args(["--sort=name", &format!("--mtime=@{EPOCH_S}"), "--mode=u=rwX,go=rX"]);
        archive.args(["--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(&tree);
        run::output(archive.arg("-cf").arg(tar).arg("."))?;
        fs::remove_dir_all(&tree).context("cannot remove what was packed")
    }
}

fn debian(tar: &Path, variant: &str, packages: &str, without: &str, hook: &str) -> Result<()> {
    let mut mmdebstrap = run::command("mmdebstrap");
    mmdebstrap.args(["--quiet", &format!("--variant={variant}")]);
    mmdebstrap.arg(format!("--include={packages}"));
    for path in braces(without) {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    if variant == "extract" {
        // Nothing is configured there, not even that /bin is a link to /usr/bin.
        mmdebstrap.arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr");
    }
    mmdebstrap.arg(format!("--customize-hook={hook}")).arg(SUITE).arg(tar);
    mmdebstrap.env("SOURCE_DATE_EPOCH", EPOCH_S.to_string());
    run::output(&mut mmdebstrap).map(|_| ())
}

/// `a{b,c}d` as `abd` and `acd`: there is no shell between us and the command.
fn braces(pattern: &str) -> Vec<String> {
    let split = pattern.split_once('{').and_then(|(head, rest)| {
        let (middle, tail) = rest.split_once('}')?;
        Some(middle.split(',').map(|part| format!("{head}{part}{tail}")).collect())
    });
    split.unwrap_or_else(|| vec![pattern.to_owned()])
}

fn install(directory: &Path, wheels: &[&str]) -> Result<()> {
    if !run::has("pip3") {
        setup::debian_packages(&["python3-pip"])?;
    }
    let mut pip = run::command("pip3");
    pip.args(["install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-compile"]);
    // Wheels for the image's Python, whatever ours is.
    pip.args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]);
    let platform = |glibc: &str| format!("manylinux_{glibc}_{}", std::env::consts::ARCH);
    for glibc in ["2_17", "2_27", "2_28"] {
        pip.args(["--platform", &platform(glibc)]);
    }
    pip.arg("--target").arg(directory).args(wheels);
    run::output(&mut pip)?;
    // Scripts begin with the path of the Python that ran pip.
    let _ = fs::remove_dir_all(directory.join("bin"));
    Ok(())
}

fn umoci(arguments: &[&str]) -> Result<()> {
    let mut umoci: Command = run::command("umoci");
    run::output(umoci.args(arguments)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_alternatives() {
        assert_eq!(braces("/a/{b,c}/*"), ["/a/b/*", "/a/c/*"]);
        assert_eq!(braces("/a/*"), ["/a/*"]);
    }

    #[test]
    fn every_recipe_has_a_fingerprint_of_its_own() {
        let prints = [&TINY, &SMALL, &BIG].map(Recipe::fingerprint);
        assert_eq!(prints[0], TINY.fingerprint());
        assert!(prints[0] != prints[1] && prints[1] != prints[2], "{prints:?}");
    }

    #[test]
    fn a_layout_is_verified() {
        let layout = std::env::temp_dir().join(format!("xylem-fixture-{}", std::process::id()));
        fs::create_dir_all(layout.join(BLOBS)).unwrap();
        let write = |text: &str| {
            let hex = hex(&Sha256::digest(text));
            fs::write(layout.join(BLOBS).join(&hex), text).unwrap();
            serde_json::json!({"digest": format!("sha256:{hex}")})
        };
        let layer = write("layer");
        let manifest = serde_json::json!({"config": write("config"), "layers": [layer.clone()]});
        let manifest = write(&manifest.to_string());
        let index = serde_json::json!({"manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        verify(&layout).unwrap();
        let victim = layout.join(BLOBS).join(&layer["digest"].as_str().unwrap()[7..]);
        fs::write(&victim, "lager").unwrap();
        assert!(verify(&layout).unwrap_err().to_string().contains("has the digest"));
        fs::remove_file(&victim).unwrap();
        assert!(verify(&layout).unwrap_err().to_string().contains("is not there"));
        fs::remove_dir_all(&layout).unwrap();
    }
}
