//! What nodes send, checked: every name, digest, address and count, before the state sees any of
//! it.

use std::net::SocketAddr;

use xylem_protocol::names::{NameError, check_node, check_repository};
use xylem_protocol::pb;
use xylem_protocol::pb::node_message::Kind;

use crate::forest::TreeKey;
use crate::limits::{
    ADDRESS_MAX, BRANCHES_MAX, IMAGES_MAX, LABEL_MAX, REPORTS_MAX, TREES_PER_NODE_MAX,
};
use crate::state::{Event, Hello, Membership, REGISTRY};

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    #[error("message is of no known kind")]
    Kind,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("node name registry is taken by the registry")]
    Registry,
    #[error("image {0}")]
    Image(#[source] xylem_protocol::digest::DigestError),
    #[error("address must be ip:port at which peers reach the node, not {0:?}")]
    Address(String),
    #[error("{what} is longer than {LABEL_MAX} bytes")]
    Label { what: &'static str },
    #[error("{what} are {count}, at most {max} are accepted")]
    Count { what: &'static str, count: usize, max: u32 },
}

/// The event that a message means, or the answer to it.
pub(super) fn event(message: pb::NodeMessage) -> Result<Event, pb::Refusal> {
    let image = match &message.kind {
        Some(Kind::Join(join)) => join.image.clone(),
        Some(Kind::Leave(leave)) => leave.image.clone(),
        Some(Kind::Complete(complete)) => complete.image.clone(),
        _ => String::new(),
    };
    checked(message).map_err(|error| {
        // A digest that is none is not echoed at any length.
        let image = if image.len() <= 2 * LABEL_MAX as usize { image } else { String::new() };
        pb::Refusal { image, reason: error.to_string() }
    })
}

fn checked(message: pb::NodeMessage) -> Result<Event, ConvertError> {
    Ok(match message.kind.ok_or(ConvertError::Kind)? {
        Kind::Hello(said) => Event::Hello(hello(said)?),
        Kind::Join(pb::Join { image, name }) => {
            check_repository(&name)?;
            Event::Join { key: key(&image)?, name }
        }
        Kind::Leave(pb::Leave { image }) => Event::Leave { key: key(&image)? },
        Kind::Complete(pb::Complete { image }) => Event::Complete { key: key(&image)? },
        Kind::Stuck(pb::Stuck { node }) => {
            node_name(&node)?;
            Event::Stuck { node }
        }
        Kind::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
        Kind::Hops(pb::HopReports { reports }) => {
            count("hop reports", reports.len(), REPORTS_MAX)?;
            for report in &reports {
                check_node(&report.parent)?;
                node_name(&report.child)?;
            }
            Event::Hops(reports)
        }
        Kind::Preheat(progress) => {
            count("images", progress.images.len(), IMAGES_MAX)?;
            for image in &progress.images {
                key(image)?;
            }
            Event::Preheat(progress)
        }
        Kind::Goodbye(pb::Goodbye {}) => Event::Goodbye,
    })
}

fn hello(said: pb::Hello) -> Result<Hello, ConvertError> {
    let pb::Hello { node, address, zone, version, memberships } = said;
    node_name(&node)?;
    label("zone", &zone)?;
    label("version", &version)?;
    count("memberships", memberships.len(), TREES_PER_NODE_MAX)?;
    let memberships = memberships.into_iter().map(membership).collect::<Result<_, _>>()?;
    Ok(Hello { node, address: reachable(address)?, zone, version, memberships })
}

fn membership(said: pb::Membership) -> Result<Membership, ConvertError> {
    let pb::Membership { image, name, mut parents, held_bytes: _, complete, group } = said;
    check_repository(&name)?;
    count("parents", parents.len(), BRANCHES_MAX)?;
    for parent in &mut parents {
        // A node that says `registry` instead of nothing means the same.
        if parent == REGISTRY {
            parent.clear();
        }
        if !parent.is_empty() {
            check_node(parent)?;
        }
    }
    Ok(Membership { key: key(&image)?, name, parents, group, complete })
}

fn key(image: &str) -> Result<TreeKey, ConvertError> {
    Ok(TreeKey { image: image.parse().map_err(ConvertError::Image)? })
}

fn node_name(name: &str) -> Result<(), ConvertError> {
    check_node(name)?;
    if name == REGISTRY { Err(ConvertError::Registry) } else { Ok(()) }
}

fn reachable(address: String) -> Result<String, ConvertError> {
    let parsed = address.parse().ok().filter(|parsed: &SocketAddr| {
        address.len() <= ADDRESS_MAX as usize && parsed.port() != 0 && !parsed.ip().is_unspecified()
    });
    if parsed.is_some() {
        return Ok(address);
    }
    Err(ConvertError::Address(address.chars().take(ADDRESS_MAX as usize).collect()))
}

fn label(what: &'static str, text: &str) -> Result<(), ConvertError> {
    if text.len() > LABEL_MAX as usize { Err(ConvertError::Label { what }) } else { Ok(()) }
}

fn count(what: &'static str, count: usize, max: u32) -> Result<(), ConvertError> {
    if count > max as usize { Err(ConvertError::Count { what, count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn reason(kind: Kind) -> String {
        event(pb::NodeMessage { kind: Some(kind) }).expect_err("refused").reason
    }

    fn good() -> pb::Hello {
        let held = pb::Membership {
            image: IMAGE.into(),
            name: "demo".into(),
            parents: vec!["n2".into(), String::new()],
            held_bytes: 1,
            complete: true,
            group: 9,
        };
        pb::Hello {
            node: "n1".into(),
            address: "[::1]:4400".into(),
            zone: "z".into(),
            version: "1".into(),
            memberships: vec![held],
        }
    }

    #[test]
    fn a_good_hello() {
        let event = event(pb::NodeMessage { kind: Some(Kind::Hello(good())) }).unwrap();
        let Event::Hello(hello) = event else { panic!("{event:?}") };
        assert_eq!(hello.address, "[::1]:4400");
        assert_eq!(hello.memberships[0].key.image.to_string(), IMAGE);
        assert_eq!(hello.memberships[0].parents, ["n2", ""]);
    }

    #[test]
    fn bad_hellos() {
        type Case = (&'static str, fn(&mut pb::Hello));
        let cases: [Case; 10] = [
            ("node name is not valid", |hello| hello.node = "a b".into()),
            ("node name registry is taken", |hello| hello.node = "registry".into()),
            ("address must be ip:port", |hello| hello.address = "host:80".into()),
            ("address must be ip:port", |hello| hello.address = "0.0.0.0:80".into()),
            ("address must be ip:port", |hello| hello.address = "10.0.0.1:0".into()),
            ("zone is longer than 64 bytes", |hello| hello.zone = "z".repeat(65)),
            ("memberships are 257, at most 256", |hello| {
                hello.memberships = vec![hello.memberships[0].clone(); 257];
            }),
            ("image digest is not", |hello| hello.memberships[0].image = "md5:0".into()),
            ("node name is not valid", |hello| hello.memberships[0].parents[1] = "/".into()),
            ("parents are 3, at most 2", |hello| {
                hello.memberships[0].parents = vec![String::new(); 3];
            }),
        ];
        for (expected, spoil) in cases {
            let mut hello = good();
            spoil(&mut hello);
            let reason = reason(Kind::Hello(hello));
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

    #[test]
    fn other_bad_messages() {
        assert_eq!(
            event(pb::NodeMessage { kind: None }).unwrap_err().reason,
            "message is of no known kind"
        );
        let join = pb::Join { image: "sha256:0".into(), name: "demo".into() };
        let refusal = event(pb::NodeMessage { kind: Some(Kind::Join(join)) }).unwrap_err();
        assert_eq!(refusal.image, "sha256:0");
        assert!(refusal.reason.starts_with("image digest needs 64"), "{}", refusal.reason);
        let join = pb::Join { image: IMAGE.into(), name: "UPPER".into() };
        assert!(reason(Kind::Join(join)).starts_with("repository name"));
        let stuck = pb::Stuck { node: "registry".into() };
        assert!(reason(Kind::Stuck(stuck)).starts_with("node name registry"));
        let leave = pb::Leave { image: "x".repeat(5000) };
        let refusal = event(pb::NodeMessage { kind: Some(Kind::Leave(leave)) }).unwrap_err();
        assert_eq!(refusal.image, "");
        let report =
            pb::HopReport { parent: "registry".into(), child: "a".into(), ..Default::default() };
        let hops = |reports| Kind::Hops(pb::HopReports { reports });
        assert!(checked(pb::NodeMessage { kind: Some(hops(vec![report.clone()])) }).is_ok());
        assert!(reason(hops(vec![report.clone(); 257])).starts_with("hop reports are 257"));
        let nobody = pb::HopReport { child: String::new(), ..report };
        assert!(reason(hops(vec![nobody])).starts_with("node name is not valid"));
    }
}
