//! The demo of an image that is named: one in a registry of this machine, and one in a directory,
//! which an `xylemd` serves where no registry can be had.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{IMAGE_BYTES, STATE};
use crate::build::Binaries;
use crate::cluster::Origin;
use crate::cluster::image::Image;
use crate::cluster::registry::Settings;
use crate::lab::Lab;
use crate::{demo, http, image, run, setup};

/// The only host of the lab around the demo's.
const HOST: &str = "user";
const REGISTRY: &str = "127.0.0.1:5000";
/// The image has no other tag.
const TAG: &str = "v1";

/// From a registry on the loopback device of whoever calls it, without TLS, to one in the lab.
pub(super) fn of_a_registry(programs: &Binaries) -> Result<()> {
    setup::debian_packages(&["docker-registry", "skopeo"])?;
    let layout = image::cached(IMAGE_BYTES)?;
    let mut lab = Lab::new(&[HOST.to_owned()], None)?;
    let config = lab.directory().join("registry.yml");
    fs::write(&config, Settings::default().text(REGISTRY, &lab.disk().join("registry")))?;
    let mut serve = run::command("docker-registry");
    serve.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
    lab.start(HOST, "registry", serve)?;
    run::wait_for("an answer of the registry", STATE, || {
        lab.process("registry")?.is_alive()?;
        Ok(lab.within(HOST, || http::get(REGISTRY.parse()?, "/v2/", &[])).ok().map(drop))
    })?;
    let reference = format!("{REGISTRY}/team/app:{TAG}");
    let mut push = run::command("skopeo");
    push.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
    push.args(["--preserve-digests", &format!("oci:{}", layout.display())]);
    push.arg(format!("docker://{reference}"));
    lab.place(HOST, &mut push)?;
    run::output(&mut push)?;
    let json = lab.directory().join("demo.json");
    lab.within(HOST, || demo::try_out(programs, Origin::DockerRegistry, &reference, &json))?;
    has_shown(&json, "docker-registry", &Image::read(&layout)?)
}

/// From a layout whose only image is not called `latest`, where an `xylemd` is the registry.
pub(super) fn of_a_directory(programs: &Binaries) -> Result<()> {
    let cached = image::cached(IMAGE_BYTES)?;
    let lab = Lab::new(&[], None)?;
    let layout = lab.disk().join("layout");
    fs::create_dir(&layout)?;
    symlink(cached.join("blobs"), layout.join("blobs"))?;
    fs::copy(cached.join("oci-layout"), layout.join("oci-layout"))?;
    let index = fs::read_to_string(cached.join("index.json"))?;
    fs::write(layout.join("index.json"), index.replace("\"latest\"", &format!("{TAG:?}")))?;
    let image = Image::read(&layout)?;
    let json = lab.directory().join("demo.json");
    demo::try_out(programs, Origin::Embedded, &layout.to_string_lossy(), &json)?;
    has_shown(&json, "xylemd", &image)?;
    let nowhere = demo::try_out(programs, Origin::Embedded, &lab.disk().to_string_lossy(), &json);
    let said = nowhere.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(said.contains("no file oci-layout"), "a directory without an image gets `{said}`");
    Ok(())
}

fn has_shown(json: &Path, origin: &str, image: &Image) -> Result<()> {
    let shown: Value = serde_json::from_slice(&fs::read(json).context("no JSON")?)?;
    fs::remove_file(json)?;
    let nodes = shown["nodes"].as_array().context("no nodes")?;
    let verified = nodes.iter().filter(|node| node["verified"] == true).count();
    ensure!(verified == 2 && nodes.len() == 2, "the demo has shown {nodes:?}");
    ensure!(shown["origin"] == origin, "the image came from {}", shown["origin"]);
    ensure!(shown["image"] == image.digest, "another image: {}", shown["image"]);
    Ok(())
}
