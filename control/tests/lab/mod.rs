//! A control that really serves on loopback, and nodes that really speak gRPC to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use xylem_control::server::{Options, Server};
use xylem_control::tree::ShapeKind;
use xylem_protocol::pb;
use xylem_protocol::pb::control_client::ControlClient;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

/// How long anything that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn image(number: u8) -> String {
    xylem_protocol::Digest::from_bytes([number; 32]).to_string()
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// A control in this process.
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Control {
    pub(crate) async fn start(heartbeat_ms: u32) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), heartbeat_ms).await
    }

    pub(crate) async fn start_at(listen: SocketAddr, heartbeat_ms: u32) -> Self {
        Self::start_with(ShapeKind::Ft, listen, heartbeat_ms).await
    }

    pub(crate) async fn start_with(
        shape: ShapeKind,
        listen: SocketAddr,
        heartbeat_ms: u32,
    ) -> Self {
        Self::start_settling(shape, listen, heartbeat_ms, 400).await
    }

    pub(crate) async fn start_settling(
        shape: ShapeKind,
        listen: SocketAddr,
        heartbeat_ms: u32,
        settle_ms: u64,
    ) -> Self {
        let options = Options { shape, listen, heartbeat_ms, settle_ms };
        let server = Server::bind(options).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(async { server.run(stopped).await.unwrap() });
        Self { address, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        soon("the end of control", self.task).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A node's end of its stream.
pub(crate) struct Node {
    pub(crate) outgoing: mpsc::Sender<pb::NodeMessage>,
    incoming: Streaming<pb::ControlMessage>,
}

impl Node {
    /// Opens a stream and says nothing.
    pub(crate) async fn connect(control: &Control) -> Self {
        let mut client = ControlClient::connect(control.url("")).await.unwrap();
        let (outgoing, messages) = mpsc::channel(64);
        let incoming = client.attach(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { outgoing, incoming }
    }

    /// Attaches and is welcomed.
    pub(crate) async fn attach(control: &Control, name: &str, held: &[(u8, &str)]) -> Self {
        let mut node = Self::connect(control).await;
        node.say(hello(name, held)).await;
        match node.next().await {
            Some(Said::Welcome(_)) => node,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(&self, kind: Kind) {
        self.outgoing.send(pb::NodeMessage { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn join(&self, number: u8) {
        self.say(Kind::Join(pb::Join { image: image(number), name: "demo".into() })).await;
    }

    /// The next message; `None` at the end of the stream, however it ends.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        let message = soon("a message", self.incoming.message()).await.ok().flatten()?;
        Some(message.kind.expect("a message of a known kind"))
    }

    /// The upstreams in the next message, nearest first.
    pub(crate) async fn upstreams(&mut self) -> Vec<String> {
        match self.next().await {
            Some(Said::Assignment(place)) => {
                let [branch] = place.branches.as_slice() else { panic!("{place:?}") };
                branch.upstreams.iter().map(|peer| peer.node.clone()).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn hello(name: &str, held: &[(u8, &str)]) -> Kind {
    let membership = |&(number, parent): &(u8, &str)| pb::Membership {
        image: image(number),
        name: "demo".into(),
        parents: vec![parent.into()],
        held_bytes: 0,
        complete: false,
        group: 0,
    };
    Kind::Hello(pb::Hello {
        node: name.into(),
        address: "127.0.0.1:4400".into(),
        zone: "z1".into(),
        version: "test".into(),
        memberships: held.iter().map(membership).collect(),
    })
}
