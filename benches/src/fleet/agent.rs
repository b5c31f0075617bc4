//! One simulated agent: a stream to control as a daemon has it. Decides nothing.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use xylem_protocol::Digest;
use xylem_protocol::pb;
use xylem_protocol::pb::control_client::ControlClient;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

/// Messages that may wait to be sent.
const OUTGOING_MAX: usize = 16;

/// Where an agent's stream goes.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Over a connection of its own, as daemons do.
    Own(Box<Endpoint>),
    /// Over one that others use, too.
    Shared(Channel),
}

/// The crowd's end of an agent; dropping it breaks its stream off.
#[derive(Debug)]
pub(super) struct Agent {
    outgoing: mpsc::Sender<pb::NodeMessage>,
    task: AbortHandle,
}

/// What an agent has heard, and when.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) agent: u32,
    pub(super) at: Instant,
    pub(super) what: What,
}

/// See [`Heard`].
#[derive(Debug)]
pub(super) enum What {
    /// Control said something.
    Said(Said),
    /// The stream has ended, and why.
    Ended(String),
}

impl Agent {
    /// Connects, says hello and asks for an image.
    pub(super) fn start(
        agent: u32,
        way: Way,
        image: u8,
        heard: mpsc::UnboundedSender<Heard>,
    ) -> Result<Self> {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
        let live = tokio::spawn(async move {
            let end = match live(agent, way, messages, &heard).await {
                Ok(()) => "control ended the stream".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            // Nobody listens any more at the end of a round.
            drop(heard.send(Heard { agent, at: Instant::now(), what: What::Ended(end) }));
        });
        let agent_end = Self { outgoing, task: live.abort_handle() };
        agent_end.say(hello(agent))?;
        agent_end.say(join(image))?;
        Ok(agent_end)
    }

    /// Queues a message.
    pub(super) fn say(&self, kind: Kind) -> Result<()> {
        let message = pb::NodeMessage { kind: Some(kind) };
        self.outgoing.try_send(message).context("control does not take what an agent says")
    }

    /// Whether nothing waits to be sent: a heartbeat that comes late need not be followed by more.
    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.capacity() == OUTGOING_MAX
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(
    agent: u32,
    way: Way,
    messages: mpsc::Receiver<pb::NodeMessage>,
    heard: &mpsc::UnboundedSender<Heard>,
) -> Result<()> {
    let channel = match way {
        Way::Own(endpoint) => endpoint.connect().await.context("cannot connect")?,
        Way::Shared(channel) => channel,
    };
    let stream = ControlClient::new(channel).attach(ReceiverStream::new(messages)).await;
    let mut incoming = stream.context("control refuses the stream")?.into_inner();
    while let Some(message) = incoming.message().await.context("the stream broke off")? {
        let said = message.kind.context("control said something unknown")?;
        if heard.send(Heard { agent, at: Instant::now(), what: What::Said(said) }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The image of a number.
pub(super) fn image(number: u8) -> String {
    Digest::from_bytes([number; 32]).to_string()
}

/// An agent's name.
pub(super) fn name(agent: u32) -> String {
    format!("n{agent}")
}

/// Whose name it is.
pub(super) fn number(name: &str) -> Result<u32> {
    let digits = name.strip_prefix('n').and_then(|digits| digits.parse().ok());
    digits.with_context(|| format!("control names somebody unknown: {name}"))
}

/// The wish for an image.
pub(super) fn join(number: u8) -> Kind {
    Kind::Join(pb::Join { image: image(number), name: "bench".into() })
}

fn hello(agent: u32) -> Kind {
    let [_, a, b, c] = agent.to_be_bytes();
    Kind::Hello(pb::Hello {
        node: name(agent),
        address: format!("10.{a}.{b}.{c}:4400"),
        zone: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        memberships: Vec::new(),
    })
}
