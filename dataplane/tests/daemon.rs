//! The daemon as a process: what it refuses to start with, and an image that comes from Debian's
//! registry into its store, also when the store is too small.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use xylem_protocol::Digest;

/// Longest wait for anything that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn xylemd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xylemd"));
    command.args(["--probes", "off", "--memory", "4MiB"]).args(args);
    command
}

fn refused(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = xylemd(args).output().unwrap();
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "nothing is served");
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Starts a daemon and waits for its ready line.
fn start(store: &Path, upstream: &str) -> (Running, SocketAddr) {
    let store = store.to_str().unwrap();
    let args =
        ["--node", "n1", "--listen", "127.0.0.1:0", "--store", store, "--upstream", upstream];
    let mut child = xylemd(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let running = Running(child);
    let address = line.trim().strip_prefix("xylemd n1 listening on ").expect(&line);
    (running, address.parse().unwrap())
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Bytes that no file system packs.
fn noise(length: usize) -> Vec<u8> {
    let blocks = (0..).flat_map(|n: u64| <[u8; 32]>::from(Sha256::digest(n.to_le_bytes())));
    blocks.take(length).collect()
}

#[test]
fn misuse_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("xylemd.toml");
    std::fs::write(&path, "node = \"n1\"\nstroe = \"/x\"\n").unwrap();
    let config = path.to_str().unwrap();
    for (args, part) in [
        (&["--store", "x"][..], "--node is needed"),
        (&["--node", "a b"], "1 to 63 letters"),
        (&["--node", "n", "--upstream", "ftp://x"], "wants http://"),
        (&["--node", "n", "--log", "a=b=c"], "is no filter"),
        (&["--config", config], "line 2: unknown field `stroe`"),
        (&["--config", "/nowhere/x.toml"], "cannot read configuration"),
    ] {
        let (code, told) = refused(args);
        assert_eq!(code, 2, "{told}");
        assert!(told.starts_with("xylemd: ") && told.contains(part), "{told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
}

#[test]
fn what_cannot_be_used_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("file"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (_running, _) = start(&dir.path().join("used"), "http://127.0.0.1:1");
    let (file, used, free) = (path("file"), path("used"), path("free"));
    let layout = format!("oci:{free}");
    for (args, part) in [
        (["--store", &file, "--listen", "127.0.0.1:0"], "--store wants a directory"),
        (["--store", &used, "--listen", "127.0.0.1:0"], "in use by another xylemd"),
        (["--store", &free, "--listen", &listen], "is the port in use?"),
        (["--store", &free, "--upstream", &layout], "is not an OCI layout"),
    ] {
        let mut all = vec!["--node", "n2"];
        all.extend(args);
        let (code, told) = refused(&all);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains(part), "{told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
}

/// Debian's registry, empty.
struct Registry {
    authority: String,
    client: Client,
    _running: Running,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, with a word about it, where it is not installed; in CI it must be.
    async fn start() -> Option<Self> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "docker-registry is not installed");
            eprintln!("skipped: docker-registry is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = json!({
            "version": 0.1,
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": dir.path().join("data") } },
            "http": { "addr": address.to_string() },
        });
        // JSON is YAML.
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let running = Running(child);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry does not start");
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let provider = rustls::crypto::ring::default_provider();
        // Another test of this process may have been first.
        let _ = provider.install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        Some(Self { authority: address.to_string(), client, _running: running, _dir: dir })
    }

    async fn put(&self, blob: &[u8]) -> Value {
        let url = format!("http://{}/v2/demo/blobs/uploads/", self.authority);
        let started = self.client.post(url).send().await.unwrap();
        let location = started.headers()["location"].to_str().unwrap().to_owned();
        let named = digest(blob);
        let mut url = reqwest::Url::parse(&location).unwrap();
        url.query_pairs_mut().append_pair("digest", &named.to_string());
        let request = self.client.put(url);
        assert_eq!(request.body(blob.to_vec()).send().await.unwrap().status(), 201);
        let media_type = "application/octet-stream";
        json!({ "mediaType": media_type, "digest": named.to_string(), "size": blob.len() })
    }

    /// Pushes an image of one layer.
    async fn push(&self, tag: &str, layer: &[u8]) -> Digest {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": self.put(b"{}").await,
            "layers": [self.put(layer).await],
        })
        .to_string();
        let url = format!("http://{}/v2/demo/manifests/{tag}", self.authority);
        let image = digest(manifest.as_bytes());
        let request = self.client.put(url).header("Content-Type", media_type).body(manifest);
        assert_eq!(request.send().await.unwrap().status(), 201);
        image
    }
}

/// Ends a daemon in good order and gives its exit code.
fn terminate(mut running: Running) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(running.0.wait().unwrap().code()));
    end.recv_timeout(PATIENCE).expect("it does not end")
}

struct Node<'a> {
    address: SocketAddr,
    client: &'a Client,
}

impl Node<'_> {
    async fn ask(&self, method: Method, path: &str) -> Response {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url).timeout(PATIENCE).send().await.unwrap()
    }

    /// Pulls and gives the pull's last state.
    async fn pull(&self, registry: &str, tag: &str) -> Value {
        let body = json!({ "name": "demo", "reference": tag, "registry": registry }).to_string();
        let url = format!("http://{}/xylem/v1/pulls", self.address);
        let started = self.client.post(url).body(body).send().await.unwrap();
        assert_eq!(started.status(), 202);
        let started: Value = started.json().await.unwrap();
        let path = format!("/xylem/v1/pulls/{}", started["id"]);
        let end = Instant::now() + PATIENCE;
        let mut polls = tokio::time::interval(Duration::from_millis(5));
        loop {
            polls.tick().await;
            let state: Value = self.ask(Method::GET, &path).await.json().await.unwrap();
            if state["state"] != "running" {
                return state;
            }
            assert!(Instant::now() < end, "the pull does not end: {state}");
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn an_image_comes_into_the_store_and_stays() {
    run(async {
        let Some(registry) = Registry::start().await else { return };
        let layer = noise(3_000_001);
        let image = registry.push("v1", &layer).await;
        let dir = tempfile::tempdir().unwrap();
        let upstream = format!("http://{}", registry.authority);
        let (running, address) = start(dir.path(), &upstream);
        let node = Node { address, client: &registry.client };
        let head = node.ask(Method::HEAD, "/v2/demo/manifests/v1").await;
        assert_eq!(head.headers()["docker-content-digest"], image.to_string().as_str());
        let pulled = node.pull(&registry.authority, "v1").await;
        assert_eq!(pulled["state"], "done", "{pulled}");
        assert_eq!(pulled["image"], image.to_string());
        let failed = node.pull(&registry.authority, "v2").await;
        assert!(failed["error"].as_str().unwrap().contains("has no demo:v2"), "{failed}");
        let tags = node.ask(Method::GET, "/v2/demo/tags/list").await.text().await.unwrap();
        assert_eq!(tags.trim(), r#"{"name":"demo","tags":["v1"]}"#);

        assert_eq!(terminate(running), Some(0), "an orderly end");
        // Nobody above any more: what was pulled is here.
        let (_running, address) = start(dir.path(), "http://127.0.0.1:1");
        let node = Node { address, client: &registry.client };
        let path = format!("/v2/demo/manifests/{image}");
        assert_eq!(node.ask(Method::GET, &path).await.status(), 200);
        let path = format!("/v2/demo/blobs/{}", digest(&layer));
        assert!(node.ask(Method::GET, &path).await.bytes().await.unwrap() == layer);
    });
}

/// A small file system in memory; gone with the test.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a small file system");
            return None;
        }
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "xylem-test"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_one_blob() {
    run(async {
        let Some(registry) = Registry::start().await else { return };
        registry.push("large", &noise(8 << 20)).await;
        registry.push("small", &noise(1 << 20)).await;
        let dir = tempfile::tempdir().unwrap();
        let Some(small) = Small::mount(dir.path().join("store")) else { return };
        let (running, address) = start(&small.0, &format!("http://{}", registry.authority));
        let node = Node { address, client: &registry.client };
        let failed = node.pull(&registry.authority, "large").await;
        let error = failed["error"].as_str().unwrap_or_default();
        assert!(error.contains("/store/partial/") && error.contains("free space"), "{failed}");
        let done = node.pull(&registry.authority, "small").await;
        assert_eq!(done["state"], "done", "{done}");
        let partial = std::fs::read_dir(small.0.join("partial")).unwrap().count();
        assert_eq!(partial, 0, "what did not fit is gone");
        drop(running);
    });
}
