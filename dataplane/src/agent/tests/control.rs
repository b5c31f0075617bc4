//! A control process made of paper: it assigns what the test wants, and gives orders.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xylem_protocol::pb;

use super::paper::PATIENCE;

/// A control process that answers every Join with the same upstreams.
#[derive(Debug)]
pub(super) struct PaperControl {
    pub(super) address: SocketAddr,
    /// To the node that attached last.
    outbox: Arc<Mutex<Option<Outbox>>>,
    /// Joins are not answered.
    silent: Arc<AtomicBool>,
    said: tokio::sync::Mutex<mpsc::UnboundedReceiver<pb::node_message::Kind>>,
}

type Outbox = mpsc::Sender<Result<pb::ControlMessage, tonic::Status>>;

#[derive(Debug)]
struct Assigner {
    outbox: Arc<Mutex<Option<Outbox>>>,
    silent: Arc<AtomicBool>,
    upstreams: Vec<pb::Peer>,
    orders: Vec<pb::Preheat>,
    said: mpsc::UnboundedSender<pb::node_message::Kind>,
}

#[tonic::async_trait]
impl pb::control_server::Control for Assigner {
    type AttachStream = ReceiverStream<Result<pb::ControlMessage, tonic::Status>>;

    async fn attach(
        &self,
        request: tonic::Request<tonic::Streaming<pb::NodeMessage>>,
    ) -> Result<tonic::Response<Self::AttachStream>, tonic::Status> {
        use pb::control_message::Kind as Reply;
        use pb::node_message::Kind;
        let mut inbox = request.into_inner();
        let (outbox, replies) = mpsc::channel(16);
        *self.outbox.lock().unwrap() = Some(outbox.clone());
        let (upstreams, orders) = (self.upstreams.clone(), self.orders.clone());
        let (said, silent) = (self.said.clone(), self.silent.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbox.message().await {
                let kind = message.kind.unwrap();
                let reply = match &kind {
                    Kind::Hello(_) => Some(Reply::Welcome(pb::Welcome {
                        heartbeat_ms: 1000,
                        report_ms: 1000,
                        voucher_key: b"shared".to_vec(),
                    })),
                    Kind::Join(_) if silent.load(Ordering::SeqCst) => None,
                    Kind::Join(join) => Some(Reply::Assignment(pb::Assignment {
                        image: join.image.clone(),
                        epoch: 1,
                        branches: vec![pb::Branch { upstreams: upstreams.clone() }],
                        group: 7,
                        at_once: false,
                    })),
                    _ => None,
                };
                let first = matches!(kind, Kind::Hello(_)).then(|| orders.clone());
                let orders = first.into_iter().flatten().map(Reply::Preheat);
                let _ = said.send(kind);
                for kind in reply.into_iter().chain(orders) {
                    let _ = outbox.send(Ok(pb::ControlMessage { kind: Some(kind) })).await;
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(replies)))
    }
}

impl PaperControl {
    pub(super) fn start(upstreams: &[(&str, &str)]) -> Self {
        Self::start_with(upstreams, Vec::new())
    }

    /// The same; whoever says hello gets these orders.
    pub(super) fn start_with(upstreams: &[(&str, &str)], orders: Vec<pb::Preheat>) -> Self {
        let peer = |&(node, address): &(&str, &str)| pb::Peer {
            node: node.into(),
            address: address.into(),
        };
        let (sender, said) = mpsc::unbounded_channel();
        let upstreams = upstreams.iter().map(peer).collect();
        let (outbox, silent) = (Arc::default(), Arc::default());
        let assigner = Assigner {
            outbox: Arc::clone(&outbox),
            silent: Arc::clone(&silent),
            upstreams,
            orders,
            said: sender,
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let service = pb::control_server::ControlServer::new(assigner);
                let server = tonic::transport::Server::builder().add_service(service);
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        Self { address, outbox, silent, said: tokio::sync::Mutex::new(said) }
    }

    /// From now on joins are not answered, or are again; nothing is said of those before.
    pub(super) fn fall_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// Gives the node another place.
    pub(super) fn assign(&self, assignment: pb::Assignment) {
        let outbox = self.outbox.lock().unwrap().clone().expect("a node");
        let kind = Some(pb::control_message::Kind::Assignment(assignment));
        outbox.try_send(Ok(pb::ControlMessage { kind })).unwrap();
    }

    /// What the node says next, heartbeats left out.
    pub(super) async fn hears(&self) -> pb::node_message::Kind {
        loop {
            let kind =
                tokio::time::timeout(PATIENCE, async { self.said.lock().await.recv().await });
            let kind = kind.await.expect("the node says nothing").unwrap();
            if !matches!(kind, pb::node_message::Kind::Heartbeat(_)) {
                return kind;
            }
        }
    }
}
