//! The nodes' streams: reads what a node says until it leaves, breaks off, or control is done with
//! it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xylem_protocol::pb;
use xylem_protocol::pb::control_server::{Control, ControlServer};

use super::convert::event;
use super::core::{Core, Ends, Outgoing};
use crate::limits::{HELLO_WAIT_MAX_MS, MESSAGE_MAX};
use crate::state::{Event, SessionId};

/// The gRPC service.
#[derive(Debug)]
pub(super) struct Attach {
    core: Arc<Core>,
}

pub(super) fn service(core: Arc<Core>) -> ControlServer<Attach> {
    ControlServer::new(Attach { core }).max_decoding_message_size(MESSAGE_MAX as usize)
}

#[tonic::async_trait]
impl Control for Attach {
    type AttachStream = ReceiverStream<Outgoing>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let Some(Ends { session, outgoing, mut closed }) = self.core.open() else {
            return Err(Status::unavailable("control is closing"));
        };
        let core = Arc::clone(&self.core);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            tokio::select! {
                () = listen(&core, session, &mut incoming) => {}
                _ = &mut closed => {}
            }
            core.apply(session, Event::Lost);
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Reads until the stream ends. A stream that does not open with an acceptable hello is ended at
/// once.
async fn listen(core: &Core, session: SessionId, incoming: &mut Streaming<pb::NodeMessage>) {
    let mut greeted = false;
    let patience = Duration::from_millis(HELLO_WAIT_MAX_MS);
    loop {
        let next = incoming.message();
        let next = if greeted { Ok(next.await) } else { timeout(patience, next).await };
        let message = match next {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return,
            Ok(Err(status)) => {
                tracing::debug!(session = session.0, %status, "stream broke off");
                return;
            }
            Err(_) => {
                tracing::debug!(session = session.0, "no hello");
                return;
            }
        };
        match event(message) {
            Ok(event) => {
                greeted |= matches!(event, Event::Hello(_));
                core.apply(session, event);
            }
            Err(refusal) => core.refuse(session, refusal),
        }
        if !greeted {
            return;
        }
    }
}
