//! The real `xylem install` and `xylem uninstall` in directories of the test's own: what they
//! write, refuse, and leave behind. The node is a stand-in that only tells its status.

mod run;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use axum::routing::get;
use axum::{Json, Router};
use run::{NOBODY, complaint, serve, stdout, xylem};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A node that knows two registries.
async fn node() -> String {
    let registries = json!([
        { "host": "registry.example.com", "url": "https://registry.example.com" },
        { "host": "plain.example.com:5000", "url": "http://10.0.0.1:5000" },
    ]);
    with_status(json!({ "node": "n", "registries": registries, "all": false })).await
}

async fn with_status(status: Value) -> String {
    serve(Router::new().route("/xylem/v1/status", get(async || Json(status)))).await
}

/// A directory to install into, which is not there yet.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// Where containerd would look.
    fn certs(&self, rest: &str) -> std::path::PathBuf {
        self.root.path().join("containerd/certs.d").join(rest)
    }

    /// Where podman would look.
    fn conf(&self, rest: &str) -> std::path::PathBuf {
        self.root.path().join("containers/registries.conf.d").join(rest)
    }

    fn write(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    async fn run(&self, node: &str, arguments: &str) -> Output {
        let words: Vec<_> = arguments.split(' ').collect();
        let (option, directory) = match words[1] {
            "containerd" => ("--certs-dir", self.certs("")),
            _ => ("--conf-dir", self.conf("")),
        };
        let directory = directory.to_str().unwrap().trim_end_matches('/').to_owned();
        let ours = ["--node-url", node, words[0], words[1], option, &directory];
        xylem(&[ours.as_slice(), &words[2..]].concat()).await
    }

    /// Runs what succeeds, without a word on stderr.
    async fn done(&self, node: &str, arguments: &str) -> String {
        let output = self.run(node, arguments).await;
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
        stdout(&output)
    }

    /// Runs what succeeds, with one line on stderr.
    async fn noted(&self, node: &str, arguments: &str) -> (String, String) {
        let output = self.run(node, arguments).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (stdout(&output), complaint(&output))
    }

    /// Runs what is refused with one line, and changes nothing.
    async fn refused(&self, node: &str, arguments: &str) -> String {
        let before = self.all();
        let output = self.run(node, arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(self.all(), before);
        complaint(&output)
    }

    /// Every directory, and every file with what is in it.
    fn all(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut all = BTreeMap::new();
        let mut open = vec![self.root.path().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let content = path.is_file().then(|| fs::read(&path).unwrap());
                if path.is_dir() {
                    open.push(path.clone());
                }
                all.insert(path.to_str().unwrap().to_owned(), content);
            }
        }
        all
    }
}

#[tokio::test]
async fn misuse_is_two() {
    for arguments in [
        "install",
        "install docker",
        "install containerd --registry",
        "install containerd --registry ../etc",
        "install containerd --registry https://r",
        "install containerd --registry r:0",
        "install containerd --registry r --all",
        "install containerd --conf-dir d",
        "uninstall podman --certs-dir d",
        "uninstall podman --registry UPPER",
    ] {
        let output = xylem(&arguments.split(' ').collect::<Vec<_>>()).await;
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments}");
    }
    let mut arguments = vec!["install".to_owned(), "podman".to_owned()];
    arguments.extend((0..257).map(|number| format!("--registry=r{number}")));
    let output = xylem(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("more than 256 registries"));
}

#[tokio::test]
async fn containerd_from_nothing_to_nothing() {
    let (place, node) = (Place::new(), node().await);
    let before = place.all();
    let dry = place.done(&node, "install containerd --dry-run").await;
    assert_eq!(place.all(), before);
    assert_eq!(place.done(&node, "install containerd").await, dry);
    let path = place.certs("registry.example.com/hosts.toml");
    let expected = format!(
        "# Written by `xylem install containerd`; `xylem uninstall containerd` takes it away.\n\
         server = \"https://registry.example.com\"\n\n\
         # >>> xylem (with this file and directories: 3)\n\
         [host.\"{node}\"]\n  capabilities = [\"pull\", \"resolve\"]\n# <<< xylem\n"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(dry.starts_with(&format!("--- /dev/null\n+++ {}\n@@ -0,0 +1,7 @@\n", path.display())));
    let plain = fs::read_to_string(place.certs("plain.example.com:5000/hosts.toml")).unwrap();
    assert!(plain.contains("server = \"http://plain.example.com:5000\""));

    let after = place.all();
    assert_eq!(place.done(&node, "install containerd").await, "nothing to change\n");
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let none = json(place.done(&node, "install containerd --json").await);
    assert_eq!(none["changes"][0], json!({ "path": path, "action": "none" }));
    let remove = json(place.done(NOBODY, "uninstall containerd --json --dry-run").await);
    assert_eq!(remove["changes"][1], json!({ "path": path, "action": "remove" }));
    assert_eq!(place.all(), after);

    let one = place.done(NOBODY, "uninstall containerd --registry registry.example.com").await;
    assert!(one.contains("+++ /dev/null") && !path.parent().unwrap().exists());
    assert!(place.certs("plain.example.com:5000/hosts.toml").exists());
    place.done(&node, "install containerd").await;
    place.done(NOBODY, "uninstall containerd --all").await;
    assert_eq!(place.all(), before);
    assert_eq!(place.done(NOBODY, "uninstall containerd").await, "nothing to change\n");
}

#[tokio::test]
async fn containerd_files_of_the_user_are_kept() {
    let place = Place::new();
    let texts = [
        "",
        "\n",
        "server = \"https://r\"",
        "server = \"https://r\"\r\n\r\n# big\r\n[host.\"http://big\"]\r\n  ca = \"x\"",
        "[host.\"http://a\"]\n[host.\"http://b\"]\n",
    ];
    for (number, text) in texts.iter().enumerate() {
        place.write(&place.certs(&format!("r{number}/hosts.toml")), text);
    }
    fs::create_dir(place.certs("empty")).unwrap();
    fs::create_dir(place.certs("old_5000_")).unwrap();
    let linked = place.certs("r1/hosts.toml");
    fs::rename(&linked, place.certs("r1/real")).unwrap();
    symlink("real", &linked).unwrap();
    let mode = |mode| fs::set_permissions(place.certs("r0/hosts.toml"), mode).unwrap();
    mode(fs::Permissions::from_mode(0o600));
    let before = place.all();

    let hosts = "--registry r0 r1 r2 --registry r3 r4 empty new old:5000 r0";
    let (diff, note) = place.noted(NOBODY, &format!("install containerd {hosts}")).await;
    assert!(note.contains("cannot reach node") && note.contains("taken to be https"), "{note}");
    assert_eq!(diff.matches("\n+[host.\"http://127.0.0.1:1\"]").count(), 8, "{diff}");
    assert_eq!(diff.lines().filter(|line| line.starts_with('-')).count(), 8 + 1, "{diff}");
    assert!(linked.is_symlink() && place.certs("old_5000_/hosts.toml").exists());
    let kept = fs::metadata(place.certs("r0/hosts.toml")).unwrap().permissions().mode();
    assert_eq!(kept & 0o777, 0o600);
    let (again, _) = place.noted(NOBODY, &format!("install containerd {hosts}")).await;
    assert_eq!(again, "nothing to change\n");
    // Another node takes the place of the first, and is known to be asked by http.
    let node = with_status(json!({ "registries": [{ "host": "new", "url": "http://new" }] })).await;
    place.done(&node, "install containerd").await;
    let text = fs::read_to_string(place.certs("new/hosts.toml")).unwrap();
    assert!(text.contains(&node) && text.contains("server = \"http://new\""), "{text}");

    place.done(NOBODY, "uninstall containerd").await;
    assert_eq!(place.all(), before);
    assert!(linked.is_symlink());
}

#[tokio::test]
async fn containerd_for_all() {
    let place = Place::new();
    place.write(&place.certs("own.example/hosts.toml"), "server = \"https://own.example\"\n");
    let node = node().await;
    let output = place.run(&node, "install containerd --all").await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("own.example has") && said.contains("is not covered"), "{said}");
    assert!(said.contains("serves only the registries"), "{said}");
    let text = fs::read_to_string(place.certs("_default/hosts.toml")).unwrap();
    let toml: toml::Table = text.parse().unwrap();
    assert!(!toml.contains_key("server") && toml["host"].get(&node).is_some(), "{text}");
    place.done(&node, "install containerd").await;
    place.done(NOBODY, "uninstall containerd").await;
    assert!(!place.certs("_default").exists() && place.certs("own.example").exists());

    let user = "server = \"https://cache.example\"\n[host.\"https://cache.example\"]\n";
    place.write(&place.certs("_default/hosts.toml"), user);
    let (_, note) =
        place.noted(&node, "install containerd --registry plain.example.com:5000").await;
    assert!(note.contains("takes the place of") && note.contains("_default"), "{note}");
}

#[tokio::test]
async fn containerd_files_that_are_refused() {
    let (place, node) = (Place::new(), node().await);
    let path = place.certs("registry.example.com/hosts.toml");
    let shown = path.display();
    place.write(&path, "server = \n");
    let said = place.refused(&node, "install containerd").await;
    assert!(said.starts_with(&format!("xylem: {shown} is no valid TOML in line 1: ")), "{said}");
    place.write(&path, &format!("[host.\"{node}\"]\n"));
    let said = place.refused(&node, "install containerd").await;
    assert!(said.starts_with(&format!("xylem: {shown} already asks {node}")), "{said}");
    fs::write(&path, [0xff]).unwrap();
    assert!(place.refused(&node, "install containerd").await.contains("no UTF-8 text"));
    fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
    assert!(place.refused(&node, "install containerd").await.contains("longer than 1048576"));
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert!(place.refused(&node, "install containerd").await.contains("cannot read"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(place.refused(&node, "install containerd").await.contains("no regular file"));
    fs::remove_dir(&path).unwrap();
    place.write(&place.certs("registry.example.com/ca.crt"), "");
    let said = place.refused(&node, "install containerd").await;
    assert!(said.contains("would make containerd ignore") && said.contains("ca.crt"), "{said}");
}

#[tokio::test]
async fn what_may_not_be_written_is_one() {
    let node = node().await;
    for (runtime, option) in [("containerd", "--certs-dir"), ("podman", "--conf-dir")] {
        // Nobody makes directories there, not even root.
        let output =
            xylem(&["--node-url", &node, "install", runtime, option, "/sys/xylem/none"]).await;
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
        let said = complaint(&output);
        assert!(said.starts_with("xylem: cannot write /sys/xylem/none/"), "{said}");
    }
}

#[tokio::test]
async fn containerd_files_edited_meanwhile() {
    let (place, node) = (Place::new(), node().await);
    place.done(&node, "install containerd").await;
    let path = place.certs("registry.example.com/hosts.toml");
    let written = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{written}[host.\"http://mine\"]\n")).unwrap();
    let (_, note) = place.noted(NOBODY, "uninstall containerd").await;
    assert!(note.contains("was edited since it was written"), "{note}");
    let left = fs::read_to_string(&path).unwrap();
    assert!(
        left.ends_with("server = \"https://registry.example.com\"\n\n[host.\"http://mine\"]\n")
    );
    assert!(!place.certs("plain.example.com:5000").exists());

    for edited in [
        written.replace("\"resolve\"]", "\"resolve\", \"push\"]"),
        format!("{written}skip_verify = true\n"),
    ] {
        fs::write(&path, edited).unwrap();
        let said = place.refused(NOBODY, "uninstall containerd").await;
        assert!(said.contains("has a block of Xylem's that was edited"), "{said}");
    }
    let node = with_status(json!({ "registries": [{ "host": "other.example" }] })).await;
    place.done(&node, "install containerd").await;
    let output = place.run(NOBODY, "uninstall containerd").await;
    assert_eq!(output.status.code(), Some(1), "one of two");
    assert!(stdout(&output).contains("other.example") && !place.certs("other.example").exists());
    complaint(&output);
}

#[tokio::test]
async fn what_the_node_must_say() {
    let place = Place::new();
    for runtime in ["containerd", "podman"] {
        let install = format!("install {runtime}");
        let said = place.refused(NOBODY, &install).await;
        assert!(said.contains("cannot reach node") && said.contains("--registry"), "{said}");
        let older = with_status(json!({ "node": "n" })).await;
        let said = place.refused(&older, &install).await;
        assert!(said.contains("does not say its registries: name them with --registry"), "{said}");
        let bare = with_status(json!({ "registries": [] })).await;
        assert!(place.refused(&bare, &install).await.contains("configured for no registry"));
        let bad = with_status(json!({ "registries": [{ "host": "../../etc", "url": "x" }] })).await;
        let output = place.run(&bad, &install).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty() && !place.certs("..").exists());
    }
    let node = node().await;
    let (_, note) = place.noted(&node, "install podman --registry other.example").await;
    assert!(note.contains("not configured for other.example"), "{note}");
}

#[tokio::test]
async fn podman_from_nothing_to_nothing() {
    let (place, node) = (Place::new(), node().await);
    let before = place.all();
    let path = place.conf("50-xylem.conf");
    let dry = place.done(&node, "install podman --all --dry-run").await;
    assert_eq!(place.all(), before);
    assert_eq!(place.done(&node, "install podman --all").await, dry);
    let authority = node.trim_start_matches("http://");
    let expected = format!(
        "# Written by `xylem install podman`; `xylem uninstall podman` takes it away.\n\
         # Directories made with it: 2\n\n\
         [[registry]]\n\
         prefix = \"registry.example.com\"\nlocation = \"registry.example.com\"\n\
         [[registry.mirror]]\n\
         location = \"{authority}/registry.example.com\"\ninsecure = true\n\n\
         [[registry]]\n\
         prefix = \"plain.example.com:5000\"\nlocation = \"plain.example.com:5000\"\n\
         insecure = true\n\
         [[registry.mirror]]\n\
         location = \"{authority}/plain.example.com__5000\"\ninsecure = true\n"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(place.done(&node, "install podman").await, "nothing to change\n");

    // One more, without the node: what is known of the others stays.
    let (diff, _) =
        place.noted(NOBODY, "install podman --registry plain.example.com:5000 more").await;
    let text = fs::read_to_string(&path).unwrap();
    assert!(diff.contains("+prefix = \"more\"") && text.matches("prefix = ").count() == 3);
    assert!(text.contains("location = \"plain.example.com:5000\"\ninsecure = true\n[[registry.m"));
    place.done(NOBODY, "uninstall podman --registry more").await;
    place.done(&node, "install podman").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);

    let json = place.done(NOBODY, "uninstall podman --json").await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, json!({ "changes": [{ "path": path, "action": "remove" }] }));
    assert_eq!(place.all(), before);
    assert_eq!(place.done(NOBODY, "uninstall podman").await, "nothing to change\n");
}

#[tokio::test]
async fn podman_files_of_the_user_come_first() {
    let (place, node) = (Place::new(), node().await);
    let theirs = "[[registry]]\nlocation = \"registry.example.com\"\ninsecure = true\n";
    for other in ["../registries.conf", "00-mine.conf", "99-mine.conf"] {
        let path = place.conf(other);
        place.write(&path, theirs);
        let before = place.all();
        let output = place.run(&node, "install podman").await;
        assert_eq!((output.status.code(), place.all()), (Some(1), before));
        let said = complaint(&output);
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(file) && said.contains("registry.example.com"), "{said}");
        let authority = node.trim_start_matches("http://");
        let mirror = format!(
            "[[registry.mirror]]\n\
             location = \"{authority}/registry.example.com\"\ninsecure = true\n"
        );
        assert_eq!(stdout(&output), mirror, "what to add by hand");
        fs::write(&path, "[[").unwrap();
        assert!(place.refused(&node, "install podman").await.contains("is no valid TOML"));
        fs::remove_file(&path).unwrap();
    }
    place.write(&place.conf("00-mine.conf.bak"), theirs);
    place.write(&place.conf("../registries.conf"), "unqualified-search-registries = [\"a\"]\n");
    place.done(&node, "install podman").await;

    let path = place.conf("50-xylem.conf");
    let written = fs::read_to_string(&path).unwrap();
    for edited in ["", "# mine\n", &format!("{written}# mine\n")] {
        fs::write(&path, edited).unwrap();
        for command in ["install podman", "uninstall podman"] {
            let said = place.refused(&node, command).await;
            assert!(said.contains("50-xylem.conf was edited, or not written by Xylem"), "{said}");
        }
    }
    let said = place.refused("http://[::1]:1", "install podman --registry r").await;
    assert!(said.contains("IPv6"), "{said}");
}
