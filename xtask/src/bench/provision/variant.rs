//! What is compared, by name: which kinds there are and what each is fit for; runs nothing.

/// What is brought to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// One blob of random data.
    Blob,
    /// An image of several layers.
    Image,
}

impl Workload {
    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Image => "image",
        }
    }
}

/// One way to bring data to all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Ours in that shape.
    Ours { shape: &'static str, verified: bool },
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

const TWIN: Variant = Variant::Ours { shape: "twin", verified: true };

/// All, in the order in which they are run.
pub(super) const ALL: [Variant; 15] = [
    TWIN,
    Variant::Ours { shape: "ft", verified: true },
    Variant::Ours { shape: "twin", verified: false },
    Variant::Ours { shape: "ft", verified: false },
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
            Self::Ours { shape, verified: true } => shape.to_owned(),
            Self::Ours { shape, verified: false } => format!("{shape}-unhashed"),
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
        match self {
            Self::Ours { .. } | Self::Registry | Self::RegistryCache | Self::Nginx { .. } => true,
            Self::Forward { .. } | Self::Torrent { .. } | Self::Mbuffer { .. } => {
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
    }
}
