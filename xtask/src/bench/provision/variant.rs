//! What is compared, by name: which kinds there are and what each is fit for; runs nothing.

/// What is brought to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// One blob of random data.
    Blob,
    /// An image of several layers.
    Image,
    /// So many images of one layer of random data, each with trees of its own.
    Images(u64),
}

impl Workload {
    /// Its name in tables and JSON.
    pub(super) fn name(self) -> String {
        match self {
            Self::Blob => "blob".to_owned(),
            Self::Image => "image".to_owned(),
            Self::Images(number) => format!("images-{number}"),
        }
    }
}

/// One way to bring data to all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Ours in that shape, with so much memory for slots where it is not the default.
    Ours { shape: &'static str, verified: bool, memory_mib: Option<u32> },
    /// A model of ours that passes on nothing but whole units; none is a whole half of the blob.
    Forward { unit_bytes: Option<u64> },
    /// Every node asks the registry.
    Registry,
    /// Docker's registry as a pull-through cache, in a binary tree.
    RegistryCache,
    /// nginx as a cache, in a binary tree; asking once for all, or slice by slice.
    Nginx { slices: bool },
    /// A libtorrent swarm with a full mesh.
    Torrent { piece_bytes: u64 },
    /// mbuffer, each node to the next, or each to two.
    Mbuffer { tree: bool },
}

const fn ours(shape: &'static str, verified: bool, memory_mib: Option<u32>) -> Variant {
    Variant::Ours { shape, verified, memory_mib }
}

/// All, in the order in which they are run.
pub(super) const ALL: [Variant; 16] = [
    ours("twin", true, None),
    ours("twin", true, Some(32)),
    ours("ft", true, None),
    ours("twin", false, None),
    ours("ft", false, None),
    Variant::Forward { unit_bytes: Some(512 << 10) },
    Variant::Forward { unit_bytes: Some(4 << 20) },
    Variant::Forward { unit_bytes: None },
    Variant::Registry,
    Variant::RegistryCache,
    Variant::Nginx { slices: false },
    Variant::Nginx { slices: true },
    Variant::Torrent { piece_bytes: 512 << 10 },
    Variant::Torrent { piece_bytes: 4 << 20 },
    Variant::Mbuffer { tree: false },
    Variant::Mbuffer { tree: true },
];

impl Variant {
    /// Its name on the command line, in tables and JSON.
    pub(super) fn name(self) -> String {
        match self {
            Self::Ours { shape, verified, memory_mib } => {
                let unhashed = if verified { "" } else { "-unhashed" };
                let memory = memory_mib.map_or_else(String::new, |mib| format!("-{mib}m"));
                format!("{shape}{unhashed}{memory}")
            }
            Self::Forward { unit_bytes: Some(bytes) } => format!("forward-{}", spell(bytes)),
            Self::Forward { unit_bytes: None } => "forward-whole".to_owned(),
            Self::Registry => "registry".to_owned(),
            Self::RegistryCache => "registry-cache".to_owned(),
            Self::Nginx { slices: false } => "nginx-lock".to_owned(),
            Self::Nginx { slices: true } => "nginx-slice".to_owned(),
            Self::Torrent { piece_bytes } => format!("torrent-{}", spell(piece_bytes)),
            Self::Mbuffer { tree: false } => "mbuffer-chain".to_owned(),
            Self::Mbuffer { tree: true } => "mbuffer-tree".to_owned(),
        }
    }

    /// Whether it can bring that.
    pub(super) fn can(self, workload: Workload) -> bool {
        match (self, workload) {
            // How much memory there is decides where many want some.
            (Self::Ours { verified, .. }, Workload::Images(_)) => verified,
            (_, Workload::Images(_)) => false,
            (Self::Ours { memory_mib, .. }, _) => memory_mib.is_none(),
            (Self::Registry | Self::RegistryCache | Self::Nginx { .. }, _) => true,
            (Self::Forward { .. } | Self::Torrent { .. } | Self::Mbuffer { .. }, _) => {
                workload == Workload::Blob
            }
        }
    }

    /// The Debian packages that it is made of.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Ours { .. } | Self::Forward { .. } => &[],
            Self::Registry | Self::RegistryCache => &["curl"],
            Self::Nginx { .. } => &["nginx-light", "curl"],
            Self::Torrent { .. } => &["python3", "python3-venv"],
            Self::Mbuffer { .. } => &["mbuffer"],
        }
    }
}

fn spell(bytes: u64) -> String {
    match (bytes >> 20, bytes >> 10) {
        (0, kib) => format!("{kib}k"),
        (mib, _) => format!("{mib}m"),
    }
}

/// Those whose names begin with one of these; all of none.
pub(super) fn choose(only: &[String]) -> Vec<Variant> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|it| name.starts_with(&**it));
    ALL.into_iter().filter(|variant| wanted(&variant.name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> =
            ALL.iter().map(|variant| variant.name()).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.contains("torrent-4m") && names.contains("forward-512k"), "{names:?}");
    }

    #[test]
    fn variants_are_chosen_by_how_their_names_begin() {
        assert_eq!(choose(&[]).len(), ALL.len());
        assert_eq!(choose(&["nginx".into()]).len(), 2);
        assert_eq!(choose(&["mbuffer-tree".into(), "ft".into()]).len(), 3);
        assert!(choose(&["squid".into()]).is_empty());
        let many = ALL.into_iter().filter(|variant| variant.can(Workload::Images(20)));
        let names: Vec<String> = many.map(Variant::name).collect();
        assert_eq!(names, ["twin", "twin-32m", "ft"]);
    }
}
