//! The text of the drop-in for podman, skopeo and buildah: what stands in it, and the text of that.
//! Pure: files are others' business.

use serde::Deserialize;

use super::host::RegistryHost;
use crate::limits::{DIRECTORIES_MAX, REGISTRIES_MAX};

const HEAD: &str = "# Written by `xylem install podman`; `xylem uninstall podman` takes it away.\n";
const DIRECTORIES: &str = "# Directories made with it: ";

/// One registry and where it is asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) host: RegistryHost,
    /// Whether the registry itself is asked by http.
    pub(super) insecure: bool,
    /// `HOST:PORT` of the node.
    pub(super) node: String,
}

impl Entry {
    /// What a user adds to a registry's table to ask the node first.
    pub(super) fn mirror(&self) -> String {
        let Self { host, node, .. } = self;
        let component = host.component();
        format!("[[registry.mirror]]\nlocation = \"{node}/{component}\"\ninsecure = true\n")
    }

    fn render(&self) -> String {
        let host = &self.host;
        let insecure = if self.insecure { "insecure = true\n" } else { "" };
        let mirror = self.mirror();
        format!("\n[[registry]]\nprefix = \"{host}\"\nlocation = \"{host}\"\n{insecure}{mirror}")
    }
}

/// All of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropin {
    /// How many of the directories above were made with it.
    pub(super) directories: u32,
    pub(super) entries: Vec<Entry>,
}

/// As it stands in the file.
#[derive(Deserialize)]
struct Text {
    registry: Vec<Registry>,
}

#[derive(Deserialize)]
struct Registry {
    prefix: String,
    #[serde(default)]
    insecure: bool,
    mirror: Vec<Mirror>,
}

#[derive(Deserialize)]
struct Mirror {
    location: String,
}

impl Registry {
    fn entry(&self) -> Option<Entry> {
        let [mirror] = self.mirror.as_slice() else { return None };
        let (node, _) = mirror.location.split_once('/')?;
        let host = self.prefix.parse().ok()?;
        Some(Entry { host, insecure: self.insecure, node: node.to_owned() })
    }
}

impl Dropin {
    pub(super) fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        if self.directories > 0 {
            text.push_str(&format!("{DIRECTORIES}{}\n", self.directories));
        }
        text.extend(self.entries.iter().map(Entry::render));
        text
    }

    /// What was rendered to exactly this text; `None` where it was edited, or is another's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(HEAD)?;
        let directories = match body.strip_prefix(DIRECTORIES) {
            Some(rest) => rest.lines().next()?.parse().ok()?,
            None => 0,
        };
        let Text { registry } = toml::from_str(text).ok()?;
        if registry.len() > REGISTRIES_MAX as usize || directories > DIRECTORIES_MAX {
            return None;
        }
        let entries = registry.iter().map(Registry::entry).collect::<Option<_>>()?;
        let dropin = Self { directories, entries };
        (dropin.render() == text).then_some(dropin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(host: &str, insecure: bool) -> Entry {
        Entry { host: host.parse().unwrap(), insecure, node: "127.0.0.1:4400".to_owned() }
    }

    #[test]
    fn as_podman_reads_it() {
        let entries = vec![entry("docker.io", false), entry("r.example:5000", true)];
        let text = Dropin { directories: 0, entries }.render();
        let expected = "\
# Written by `xylem install podman`; `xylem uninstall podman` takes it away.

[[registry]]
prefix = \"docker.io\"
location = \"docker.io\"
[[registry.mirror]]
location = \"127.0.0.1:4400/docker.io\"
insecure = true

[[registry]]
prefix = \"r.example:5000\"
location = \"r.example:5000\"
insecure = true
[[registry.mirror]]
location = \"127.0.0.1:4400/r.example__5000\"
insecure = true
";
        assert_eq!(text, expected);
        for edited in [
            format!("{text}#\n"),
            text.replace("docker.io\"", "docker.io/library\""),
            text.replace("insecure = true", "insecure = false"),
            text.replace('\n', "\r\n"),
            text[1..].to_owned(),
            text.replace("[[registry]]", "[registry]"),
            String::new(),
        ] {
            assert_eq!(Dropin::parse(&edited), None, "{edited}");
        }
    }

    const HOST: &str = "[a-z][a-z0-9]{0,5}(:[1-9][0-9]{0,3})?";

    proptest! {
        #[test]
        fn a_text_is_read_back(
            directories in 0..=DIRECTORIES_MAX,
            entries in prop::collection::vec((HOST, any::<bool>()), 1..5),
        ) {
            let entries = entries.iter().map(|(host, insecure)| entry(host, *insecure)).collect();
            let dropin = Dropin { directories, entries };
            prop_assert_eq!(Dropin::parse(&dropin.render()), Some(dropin));
        }
    }
}
