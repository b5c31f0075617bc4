//! Images of every kind through a node: how layers are packed, how manifests are written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::containerd::{self, Containerd};
use super::layout::{INDEX, Layout, MANIFEST, archive, first_layer};
use super::mirror::{self, ACCEPT, NAME, with_fixture};
use super::podman::{self, Setting};
use crate::build::Binaries;
use crate::cluster::image::hash;
use crate::cluster::{CONTROL, Cluster, NODE_PORT, REGISTRY, REGISTRY_PORT};
use crate::image::{self, fixture};
use crate::{http, run};

/// As many as the clients unpack: overlay file systems have a bound, and clients too.
const LAYERS: usize = 120;
/// Layers of the image that is only copied.
const BLOBS: usize = 250;
const SAYS: &str = "as it should";
/// What the images run: it reads a file of their last layer.
const COMMAND: [&str; 3] = ["/bin/busybox", "cat", "/said"];
const OTHER: &str = "s390x";

/// Every image of one platform, by both clients; each blob once from the registry.
pub(super) fn all_can_be_pulled(programs: &Binaries) -> Result<()> {
    with_kinds(programs, |cluster, fixture| {
        let base = first_layer(fixture)?;
        let kinds = ["plain", "gzip", "empty", "layers"];
        for kind in kinds {
            let from = make(&cluster.lab.disk().join(kind), kind, &base)?;
            cluster.push_as(&from, &repository(kind), &["--preserve-digests"])?;
        }
        let [gzip, zstd] = ["gzip", "zstd"].map(|kind| cluster.lab.disk().join(kind));
        // Recompressed on the way into a registry the layers that it has already would be taken.
        image::recompressed(&gzip, &zstd)?;
        let [gzip, zstd] = [gzip, zstd].map(|layout| format!("oci:{}:latest", layout.display()));
        cluster.push_as(&zstd, &repository("zstd"), &["--preserve-digests"])?;
        cluster.push_as(&gzip, &repository("v2s2"), &["--format", "v2s2"])?;
        start(cluster)?;
        let node = cluster.nodes()[0].clone();
        let skopeo = Setting::new(cluster, &node)?;
        let runtime = Containerd::start(cluster, &cluster.nodes()[1].clone())?;
        for kind in kinds.into_iter().chain(["zstd", "v2s2"]) {
            let copied = copy(cluster, &skopeo, kind, &[]);
            copied.and_then(|()| runs(cluster, &runtime, kind)).with_context(|| kind.to_owned())?;
        }
        each_blob_once(cluster)
    })
}

/// More blobs than a client asks for at once, and than one could unpack. With 1000 the registry
/// alone takes minutes to be given them.
pub(super) fn hundreds_of_blobs(programs: &Binaries) -> Result<()> {
    with_kinds(programs, |cluster, _| {
        let layout = Layout::create(&cluster.lab.disk().join("hundreds"))?;
        let layer = |n| layout.layer(&archive(&[("number", &format!("{n}"))])?, true);
        let layers = (0..BLOBS).map(layer).collect::<Result<Vec<_>>>()?;
        let image = layout.image(crate::image::architecture(), &layers, &COMMAND)?;
        let from = layout.tag(image, "latest")?;
        for layer in &layers {
            lay_in(cluster, &layout, layer.digest()?, "hundreds")?;
        }
        cluster.push_as(&from, &repository("hundreds"), &["--preserve-digests"])?;
        start(cluster)?;
        for node in cluster.nodes().to_vec() {
            let skopeo = Setting::new(cluster, &node)?;
            copy(cluster, &skopeo, "hundreds", &[]).with_context(|| node)?;
        }
        each_blob_once(cluster)
    })
}

/// An index of two platforms: each is pulled by itself, each is a tree of its own.
pub(super) fn platforms_are_apart(programs: &Binaries) -> Result<()> {
    with_kinds(programs, |cluster, fixture| {
        let layout = Layout::create(&cluster.lab.disk().join("platforms"))?;
        let base = layout.layer(&first_layer(fixture)?, true)?;
        let image = |platform: &str, says: &str| {
            let said = layout.layer(&archive(&[("said", says)])?, true)?;
            layout.image(platform, &[base.clone(), said], &COMMAND)
        };
        let own = image(crate::image::architecture(), SAYS)?;
        let other = image(OTHER, "on another platform")?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [own, other]});
        let from = layout.tag(layout.manifest(&index)?, "latest")?;
        cluster.push_as(&from, &repository("platforms"), &["--preserve-digests", "--all"])?;
        start(cluster)?;
        let node = cluster.nodes()[0].clone();
        let skopeo = Setting::new(cluster, &node)?;
        let runtime = Containerd::start(cluster, &cluster.nodes()[1].clone())?;
        runs(cluster, &runtime, "platforms")?;
        trees_are(cluster, &[&own])?;
        let platform = format!("linux/{OTHER}");
        let mut pull = runtime.pull(cluster, &named("platforms"), &["--platform", &platform])?;
        run::output(&mut pull)?;
        trees_are(cluster, &[&own, &other])?;
        copy(cluster, &skopeo, "platforms", &["--all"])?;
        each_blob_once(cluster)
    })
}

/// An artifact that says what it belongs to, its referrers' tag, blobs of no bytes: as they are.
pub(super) fn artifacts_pass_through(programs: &Binaries) -> Result<()> {
    with_kinds(programs, |cluster, fixture| {
        let layout = Layout::create(&cluster.lab.disk().join("artifact"))?;
        let base = layout.layer(&first_layer(fixture)?, true)?;
        let subject = layout.image(crate::image::architecture(), &[base], &COMMAND)?;
        let name = "kinds/artifact";
        let push = |cluster: &Cluster, descriptor: &Value, tag: &str| {
            let from = layout.tag(descriptor.clone(), tag)?;
            cluster.push_as(&from, &format!("{name}:{tag}"), &["--preserve-digests", "--all"])
        };
        push(cluster, &subject, "latest")?;
        let config = layout.blob("application/vnd.oci.empty.v1+json", b"{}")?;
        let text = layout.blob("text/plain", b"signed by nobody")?;
        let nothing = layout.blob("text/plain", b"")?;
        let artifact = layout.manifest(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "text/plain",
            "config": config,
            "layers": [text, nothing],
            "subject": {
                "mediaType": MANIFEST, "digest": subject["digest"], "size": subject["size"],
            },
        }))?;
        push(cluster, &artifact, "artifact")?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [artifact]});
        let index = layout.manifest(&index)?;
        let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap_or("").to_owned();
        let referrers = digest(&subject).replacen(':', "-", 1);
        push(cluster, &index, &referrers)?;
        start(cluster)?;
        let manifests = ["latest", "artifact", &referrers, &digest(&artifact), &digest(&index)];
        for reference in manifests {
            is_the_same(cluster, &format!("/v2/{name}/manifests/{reference}"))?;
        }
        for blob in [&config, &text, &nothing] {
            is_the_same(cluster, &format!("/v2/{name}/blobs/{}", digest(blob)))?;
        }
        // This registry has no such endpoint, so its node has none either.
        is_the_same(cluster, &format!("/v2/{name}/referrers/{}", digest(&subject)))
    })
}

/// Two nodes and a registry that runs, with nothing in it.
fn with_kinds(
    programs: &Binaries,
    test: impl FnOnce(&mut Cluster, &Path) -> Result<()>,
) -> Result<()> {
    let packages = [containerd::PACKAGES, podman::PACKAGES].concat();
    with_fixture(programs, 2, &fixture::TINY, &packages, |cluster| {
        cluster.start_registry()?;
        let fixture = cluster.layout.clone();
        test(cluster, &fixture)?;
        cluster.all_alive()
    })
}

/// Puts a layer where the registry keeps what was pushed: it takes 50 ms and more for each.
fn lay_in(cluster: &Cluster, layout: &Layout, digest: &str, kind: &str) -> Result<()> {
    let (_, hex) = digest.split_once(':').context("a digest without an algorithm")?;
    let kept = cluster.lab.disk().join(REGISTRY).join("docker/registry/v2");
    let blob = kept.join("blobs/sha256").join(&hex[..2]).join(hex);
    let link = kept.join("repositories/kinds").join(kind).join("_layers/sha256").join(hex);
    fs::create_dir_all(&blob)?;
    fs::create_dir_all(&link)?;
    fs::copy(layout.path(hex), blob.join("data"))?;
    Ok(fs::write(link.join("link"), digest)?)
}

fn start(cluster: &mut Cluster) -> Result<()> {
    cluster.lab.process(REGISTRY)?.forget();
    mirror::start_nodes(cluster)
}

fn repository(kind: &str) -> String {
    format!("kinds/{kind}:latest")
}

/// As a client names it.
fn named(kind: &str) -> String {
    format!("{NAME}/{}", repository(kind))
}

/// Makes an image of a kind that [`Layout`] can write, on top of a layer that runs.
fn make(directory: &Path, kind: &str, base: &[u8]) -> Result<String> {
    let layout = Layout::create(directory)?;
    let said = archive(&[("said", SAYS), ("kind", kind)])?;
    let tars = match kind {
        "empty" => vec![base.to_vec(), archive(&[])?, said, archive(&[])?],
        "layers" => {
            let numbered = |n| archive(&[("number", &format!("{n}"))]);
            let many = (0..LAYERS - 2).map(numbered).collect::<Result<Vec<_>>>()?;
            [vec![base.to_vec()], many, vec![said]].concat()
        }
        _ => vec![base.to_vec(), said],
    };
    let layers = tars.iter().map(|tar| layout.layer(tar, kind != "plain"));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    layout.tag(layout.image(crate::image::architecture(), &layers, &COMMAND)?, "latest")
}

/// `skopeo` copies it through its node as it is, and has what the registry has.
fn copy(cluster: &Cluster, setting: &Setting, kind: &str, more: &[&str]) -> Result<()> {
    let out = cluster.lab.disk().join(format!("copy-{kind}"));
    let mut skopeo = setting.skopeo(cluster, &named(kind))?;
    skopeo.arg("--preserve-digests").args(more).arg(format!("dir:{}", out.display()));
    run::output(&mut skopeo)?;
    let path = format!("/v2/kinds/{kind}/manifests/latest");
    let registry = ask(cluster, REGISTRY, REGISTRY_PORT, &path)?;
    let manifest = fs::read(out.join("manifest.json"))?;
    ensure!(manifest == registry.body, "another manifest than the registry's was copied");
    for entry in fs::read_dir(&out)?.filter_map(|entry| entry.ok()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 64 {
            ensure!(hash(&entry.path())?.0 == name, "{name} was copied wrongly");
        }
    }
    Ok(())
}

/// containerd pulls it through its node and runs it.
fn runs(cluster: &Cluster, runtime: &Containerd, kind: &str) -> Result<()> {
    run::output(&mut runtime.pull(cluster, &named(kind), &[])?)?;
    let said = run::output(&mut runtime.run(cluster, &named(kind))?)?;
    ensure!(said == SAYS, "the container says `{said}`");
    Ok(())
}

fn ask(cluster: &Cluster, host: &str, port: u16, path: &str) -> Result<http::Answer> {
    let to = cluster.lab.host(host)?.at(port);
    cluster.lab.within(host, || http::get(to, path, &[("Accept", ACCEPT)]))
}

/// Node and registry give the same answer: status, type, digest, bytes.
fn is_the_same(cluster: &Cluster, path: &str) -> Result<()> {
    let node = ask(cluster, &cluster.nodes()[0], NODE_PORT, path)?;
    let registry = ask(cluster, REGISTRY, REGISTRY_PORT, path)?;
    let (found, expected) = (node.status, registry.status);
    ensure!(found == expected, "{path}: the node says {found}, the registry {expected}");
    if expected == 200 {
        ensure!(node.body == registry.body, "{path}: other bytes than the registry's");
        for name in ["content-type", "docker-content-digest"] {
            let (found, expected) = (node.header(name), registry.header(name));
            ensure!(found == expected, "{path}: {name} is {found:?}, not {expected:?}");
        }
    }
    Ok(())
}

/// Fails unless control has exactly the trees of these manifests.
fn trees_are(cluster: &Cluster, manifests: &[&Value]) -> Result<()> {
    let answer = cluster.get(CONTROL, "/api/v1/trees")?;
    let images = |values: &mut dyn Iterator<Item = &Value>| -> BTreeSet<String> {
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let trees = answer["trees"].as_array().context("no trees")?;
    let found = images(&mut trees.iter().map(|tree| &tree["image"]));
    let expected = images(&mut manifests.iter().map(|manifest| &manifest["digest"]));
    ensure!(found == expected, "the trees are of {found:?}, not of {expected:?}");
    Ok(())
}

/// Fails unless every blob that was sent was sent once, and all went to nodes.
fn each_blob_once(cluster: &mut Cluster) -> Result<()> {
    let served = mirror::asked_of_registry(cluster)?;
    let stranger = served.iter().find(|it| !it.agent.starts_with("xylem"));
    ensure!(stranger.is_none(), "a client has gone past its node: {stranger:?}");
    let mut seen = BTreeSet::new();
    for it in served.iter().filter(|it| it.is_blob()) {
        let digest = it.request.rsplit_once('/').map_or("", |(_, digest)| digest);
        ensure!(seen.insert(digest.to_owned()), "{digest} was sent again: {it:?}");
    }
    Ok(())
}
