//! Who asked for which image, for the history, and what the history has to say of one.

use xylem_protocol::Digest;
use xylem_protocol::http::Request;
use xylem_protocol::names::Target;

use super::Agent;
use super::flows::Refusal;
use super::history::{Asker, Given, ImageView};
use crate::clock::monotonic_ns;
use crate::origin::{Document, Repository};

/// Where one image is told of by its digest: this, and the digest.
pub(super) const IMAGES: &str = "/xylem/v1/images";

impl Agent {
    /// A request has got a manifest.
    pub(super) fn note_given(
        &self,
        request: &Request,
        repository: &Repository,
        target: &Target,
        (digest, document): (Digest, &Document),
        at_ns: u64,
    ) {
        let by = match &request.node {
            Some(node) => Asker::Node(node.clone()),
            None => Asker::Runtime,
        };
        self.note_manifest(repository, target, (digest, document), by, at_ns);
    }

    /// Somebody has got a manifest.
    pub(super) fn note_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        (digest, document): (Digest, &Document),
        by: Asker,
        at_ns: u64,
    ) {
        let mut history = self.history.borrow_mut();
        let repository = repository.label();
        if let Target::Tag(tag) = target {
            history.named(digest, repository.clone(), tag);
        }
        history.given(Given { digest, document, repository, by, at_ns });
    }

    /// What is told of an image: `path` is `/DIGEST`, or empty and the query says
    /// `ns=REGISTRY&name=NAME&reference=TAG-OR-DIGEST`.
    pub(super) fn explain(&self, path: &str, request: &Request) -> Result<ImageView, Refusal> {
        let found = match path.strip_prefix('/') {
            Some(digest) => {
                let digest = digest.parse().map_err(|error| bad(format!("{error}")))?;
                (self.history.borrow().find_digest(&digest), format!("{digest}"))
            }
            None if path.is_empty() => self.find_named(request)?,
            None => {
                return Err(Refusal::nothing_at(&format!("{IMAGES}{path}")));
            }
        };
        let (Some(image), _) = found else {
            let message = format!("no pull of {} on this node is remembered", found.1);
            return Err(Refusal::new(404, "MANIFEST_UNKNOWN", message));
        };
        let held = |digest: &Digest| self.store.size_of(digest);
        let limits = self.limits();
        let limit = |upstream: &str| limits.of(upstream);
        let view = self.history.borrow().view(&image, held, limit, monotonic_ns());
        // It was found in the same turn.
        view.ok_or_else(|| Refusal::new(500, "UNKNOWN", "interrupted".to_owned()))
    }

    fn find_named(&self, request: &Request) -> Result<(Option<Digest>, String), Refusal> {
        let value = |key| request.parameter(key).filter(|value| !value.is_empty());
        let name = value("name").ok_or_else(|| bad("?name=NAME is missing".to_owned()))?;
        let reference = value("reference").unwrap_or_else(|| "latest".into());
        let target: Target = reference.parse().map_err(|error| bad(format!("{error}")))?;
        let repository = self.find_repository(request.namespace.as_deref(), &name)?;
        let mark = if matches!(target, Target::Tag(_)) { ':' } else { '@' };
        let label = repository.label();
        let found = self.history.borrow().find(&label, &target);
        Ok((found, format!("{label}{mark}{target}")))
    }

    /// The place in an image's tree at the moment: its epoch, and who is above.
    pub(super) fn place(&self, image: &str) -> serde_json::Value {
        let view = self.trees.view();
        let tree = view.iter().find(|tree| tree.image.to_string() == image);
        tree.map_or(serde_json::Value::Null, |tree| {
            let parent = tree.parent.as_deref();
            serde_json::json!({ "epoch": tree.epoch, "parent": parent })
        })
    }
}

fn bad(message: String) -> Refusal {
    Refusal::new(400, "NAME_INVALID", message)
}
