//! Tests of the image layout: every digest and diff_id is right, and other tools accept it.

use std::io::Read;

use super::*;
use crate::image::source;

/// A directory that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xylem-image-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").unwrap();
    fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
}

fn parsed(layout: &Path, descriptor: &Value) -> Value {
    let bytes = blob(layout, descriptor["digest"].as_str().unwrap());
    assert_eq!(descriptor["size"], bytes.len());
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn digests_diff_ids_and_sizes_are_right() {
    let scratch = Scratch::new("digests");
    let out = scratch.0.join("layout");
    build(&source::select(3_000_000).unwrap(), &out).unwrap();
    for file in fs::read_dir(out.join("blobs/sha256")).unwrap() {
        let file = file.unwrap();
        let found = hex(&Sha256::digest(fs::read(file.path()).unwrap()));
        assert_eq!(file.file_name().to_str(), Some(found.as_str()));
    }
    let index: Value = serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
    let manifest = parsed(&out, &index["manifests"][0]);
    let config = parsed(&out, &manifest["config"]);
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), PROPORTIONS.len());
    for (layer, diff_id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap()) {
        let mut tar = blob(&out, layer["digest"].as_str().unwrap());
        assert_eq!(layer["size"], tar.len());
        if layer["mediaType"] == TAR_GZIP {
            let packed = std::mem::take(&mut tar);
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut tar).unwrap();
        }
        assert_eq!(*diff_id, format!("sha256:{}", hex(&Sha256::digest(&tar))));
        assert!(tar::Archive::new(&tar[..]).entries().unwrap().all(|entry| entry.is_ok()));
    }
}

#[test]
fn the_same_files_give_the_same_image() {
    let scratch = Scratch::new("same");
    let files = source::select(1_500_000).unwrap();
    let indexes = ["a", "b"].map(|name| {
        build(&files, &scratch.0.join(name)).unwrap();
        fs::read(scratch.0.join(name).join("index.json")).unwrap()
    });
    assert_eq!(indexes[0], indexes[1]);
}

#[test]
fn skopeo_accepts_the_layout() {
    if !run::has("skopeo") {
        // Past the harness, which swallows what a test prints when it passes.
        let _ = writeln!(io::stderr(), "skipped: skopeo is not installed");
        return;
    }
    let scratch = Scratch::new("skopeo");
    let out = scratch.0.join("layout");
    build(&source::select(1_500_000).unwrap(), &out).unwrap();
    let mut skopeo = run::command("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", &format!("oci:{}:latest", out.display())]);
    skopeo.arg(format!("dir:{}", scratch.0.join("copy").display()));
    run::output(&mut skopeo).unwrap();
}

#[test]
fn a_failed_build_leaves_nothing() {
    let scratch = Scratch::new("failed");
    let mut files = source::select(1_500_000).unwrap();
    let victim = files.iter_mut().find(|file| file.link.is_none()).unwrap();
    victim.path = scratch.0.join("absent");
    assert!(build(&files, &scratch.0.join("layout")).is_err());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}
