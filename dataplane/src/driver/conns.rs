//! Downstream: connections of children, runtimes and anybody with `curl`. A connection reads one
//! request at a time; blobs are answered here, everything else is asked of the cold half.

mod closing;
mod held;
mod requests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use xylem_protocol::Digest;
use xylem_protocol::http::{
    Answer, BLOB_TYPE, ByteRange, HEADER_SIZE, Method, Request, error_body, has_tag,
};
use xylem_protocol::limits::{HEAD_MAX, READERS_PER_BLOB_MAX};
use xylem_protocol::stripe::{place_in_blob, stripe_bytes};

use super::flow::Phase;
use super::meter::Traffic;
use super::{Driver, conn_token};
use crate::relay::{Event, FlowId, ReaderId};
use crate::ring::token::{Kind, Token};
use crate::ring::{Completion, Ring, Slot, socket};

pub(super) use held::Held;

const JSON_TYPE: &str = "application/json";

/// Where a connection stands.
#[derive(Debug)]
pub(super) enum State {
    /// Waits for a request, or for the rest of one.
    Reading,
    /// The cold half was asked; for a HEAD the answer has no body.
    Asking,
    /// The cold half was asked whether the caller may have the blob.
    Admitting { request: Box<Request> },
    /// Waits for a blob whose size is not known yet.
    Waiting { request: Box<Request> },
    /// The response's head is being sent; then these bytes follow.
    Heading { flow: u16, stripe: Option<u8>, start: u64, end: u64 },
    /// The relay feeds it.
    Streaming,
    /// A whole answer is being sent.
    Answering,
    /// Refused and answered: what the client still sends is dropped, so that it reads the answer.
    Draining { left: u64 },
    /// Nothing more; it is closed when nothing is in flight.
    Closing,
}

/// A downstream connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) fd: OwnedFd,
    pub(super) state: State,
    /// Bytes received and not yet understood.
    head: Vec<u8>,
    keep_alive: bool,
    /// The request is a HEAD: its answer has no body.
    is_head: bool,
    /// Entity tags of what the client has already.
    known: String,
    /// The client may be sending what nobody will read.
    drain: bool,
    /// What it holds that is counted.
    held: usize,
    /// Operations in flight.
    operations: u16,
    /// Since when it stands where it stands.
    since: Instant,
    /// What of a body is being sent: slot, offset in it, offset in the blob.
    pub(super) sending: Option<(Slot, u32, u64)>,
    /// Of which blob, for tracers.
    pub(super) blob: u64,
    /// The slot that its reader reads the file into.
    pub(super) own_slot: Option<Slot>,
    pub(super) traffic: Traffic,
}

impl Conn {
    /// Whether something moves or is waited for.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.state, State::Reading)
    }
}

impl Driver {
    pub(super) fn accepted(&mut self, completion: &Completion) {
        let accepted = Ring::accepted(completion);
        let failed = accepted.is_err();
        match accepted {
            Ok(fd) => self.welcome(fd),
            // Told once: what follows is the same.
            Err(error) if !self.accept_failed => {
                tracing::warn!(%error, "cannot accept connections until another one ends");
            }
            Err(_) => {}
        }
        self.accept_failed = failed;
        self.accepting = completion.more;
        // What is short now (descriptors, memory) is short at once again: a connection that ends
        // makes room, or the next sweep tries.
        if !failed {
            self.accept_again();
        }
    }

    /// Goes on accepting, if it does not.
    fn accept_again(&mut self) {
        if !self.accepting {
            self.accepting = true;
            self.ring.accept(self.listener.as_fd(), Token::single(Kind::Accept));
        }
    }

    fn welcome(&mut self, fd: OwnedFd) {
        // Refused only by something that is no TCP socket.
        let _ = socket::no_delay(fd.as_fd());
        let conn = Conn {
            traffic: Traffic::new(self.meter.number(), socket::cookie(fd.as_fd())),
            fd,
            state: State::Reading,
            head: Vec::new(),
            keep_alive: true,
            is_head: false,
            known: String::new(),
            drain: false,
            held: 0,
            operations: 0,
            since: self.now,
            sending: None,
            blob: 0,
            own_slot: None,
        };
        // A full table closes the connection: the client's own fallback is next.
        if let Ok(index) = self.conns.insert(conn) {
            self.read_request(index);
        }
    }

    /// Counts an operation of a connection, and gives its token.
    pub(super) fn conn_op(&mut self, kind: Kind, index: u16) -> Token {
        if let Some(conn) = self.conns.get_mut(index) {
            conn.operations += 1;
        }
        conn_token(kind, &self.conns, index)
    }

    pub(super) fn read_request(&mut self, index: u16) {
        let token = self.conn_op(Kind::RequestHead, index);
        let Some(conn) = self.conns.get(index) else { return };
        self.ring.receive_head(conn.fd.as_fd(), HEAD_MAX, false, token);
    }

    pub(super) fn conn_completed(&mut self, kind: Kind, index: u16, completion: &Completion) {
        let outcome = completion.outcome();
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.operations -= 1;
        match kind {
            Kind::RequestHead => {
                let mut head = std::mem::take(&mut conn.head);
                if head.is_empty() && matches!(conn.state, State::Reading) {
                    // A head begins: the patience with it counts from here.
                    conn.since = self.now;
                }
                self.ring.take_head(completion, &mut head);
                self.request_bytes(index, head, outcome);
            }
            Kind::Answer => self.answer_sent(index, outcome),
            Kind::Body => self.body_sent(index, outcome),
            Kind::Writable => {
                if matches!(conn.state, State::Streaming) {
                    self.happen(Event::Writable { reader: ReaderId(index) });
                }
            }
            _ => {
                let reader = ReaderId(index);
                self.happen(match outcome {
                    Ok(bytes) => Event::FileRead { reader, bytes },
                    Err(error) => {
                        tracing::error!(%error, "cannot read a blob from the store");
                        Event::FileReadFailed { reader }
                    }
                });
            }
        }
        self.free_conn_if_idle(index);
    }

    /// Begins the response to a request for a blob of known size.
    pub(super) fn answer_blob(
        &mut self,
        index: u16,
        flow_index: u16,
        size: u64,
        request: &Request,
    ) {
        let Some(flow) = self.flows.get(flow_index) else { return };
        let digest = flow.digest;
        if self.conns.get(index).is_some_and(|conn| has_tag(&conn.known, &digest)) {
            return self.answer(index, 200, BLOB_TYPE, Some(&digest), "", None, &[]);
        }
        // A stripe is a representation of its own.
        let stripe = request.stripe;
        let length = stripe.map_or(size, |stripe| stripe_bytes(size, stripe));
        let range = request.range.map_or(Ok((0, length)), |range: ByteRange| range.resolve(length));
        let (start, end) = match range {
            Ok(range) => range,
            Err(error) => {
                let extra = format!("Content-Range: bytes */{length}\r\n");
                let body = error_body("RANGE_INVALID", &error.to_string());
                return self.answer(index, 416, JSON_TYPE, None, &extra, None, &body);
            }
        };
        let full = flow.phase != Phase::Wanted
            && self.relay.readers_of(FlowId(flow_index)) >= usize::from(READERS_PER_BLOB_MAX);
        if full {
            let message = "too many readers of this blob; try again";
            return self.answer_error(index, 503, "TOOMANYREQUESTS", message);
        }
        let Some(conn) = self.conns.get_mut(index) else { return };
        let partial = request.range.is_some();
        let mut head = Vec::with_capacity(512);
        Answer {
            status: if partial { 206 } else { 200 },
            length: end - start,
            content_type: BLOB_TYPE,
            digest: Some(&digest),
            part: partial.then_some((start, length)),
            keep_alive: conn.keep_alive,
            extra: &stripe.map_or(String::new(), |_| format!("{HEADER_SIZE}: {size}\r\n")),
        }
        .write(&mut head);
        conn.state = if request.method == Method::Head || start == end {
            State::Answering
        } else {
            let place = |offset| stripe.map_or(offset, |stripe| place_in_blob(offset, stripe));
            let (start, end) = (place(start), place(end - 1) + 1);
            State::Heading { flow: flow_index, stripe, start, end }
        };
        if let Some(flow) = self.flows.get_mut(flow_index) {
            flow.last_used = self.now;
            flow.heading += u32::from(matches!(conn.state, State::Heading { .. }));
        }
        if matches!(conn.state, State::Heading { .. }) {
            // Usually all of it, and the body may follow at once; an error shows in what follows.
            let sent = socket::send_now(conn.fd.as_fd(), &head).unwrap_or(0);
            if sent == head.len() {
                return self.head_sent(index, sent as u64);
            }
            conn.traffic.count(sent as u64, self.now);
            head.drain(..sent);
        }
        self.send_answer(index, head);
    }

    /// The whole head of a blob's response is out: the relay feeds the connection now.
    fn head_sent(&mut self, index: u16, bytes: u64) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(index) else { return };
        let State::Heading { flow, stripe, start, end } = conn.state else { return };
        conn.traffic.count(bytes, now);
        self.leave_heading(index);
        // The flow may have failed while the head was on its way.
        let alive = self.flows.get(flow).filter(|flow| flow.has_relay());
        let Some(digest) = alive.map(|flow| flow.digest) else { return self.close_conn(index) };
        if let Some(conn) = self.conns.get_mut(index) {
            conn.state = State::Streaming;
            conn.blob = digest.prefix();
        }
        let reader = ReaderId(index);
        self.happen(Event::Join { reader, flow: FlowId(flow), stripe, start, end });
    }

    fn send_answer(&mut self, index: u16, bytes: Vec<u8>) {
        let token = self.conn_op(Kind::Answer, index);
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.since = self.now;
        self.ring.send_bytes(conn.fd.as_fd(), bytes, token);
    }

    /// Sends a whole answer. `head_length` is that of the body which a HEAD does not get.
    #[expect(clippy::too_many_arguments, reason = "the parts of an HTTP answer")]
    pub(super) fn answer(
        &mut self,
        index: u16,
        status: u16,
        content_type: &str,
        digest: Option<&Digest>,
        extra: &str,
        head_length: Option<u64>,
        body: &[u8],
    ) {
        let rest = self.conns.get(index).map_or(0, |conn| conn.head.len());
        if !self.hold(index, rest + body.len()) {
            let message = "too many answers are on their way; try again";
            return self.answer_error(index, 503, "TOOMANYREQUESTS", message);
        }
        let Some(conn) = self.conns.get_mut(index) else { return };
        let unchanged = status == 200 && digest.is_some_and(|digest| has_tag(&conn.known, digest));
        let mut bytes = Vec::with_capacity(512 + body.len());
        Answer {
            status: if unchanged { 304 } else { status },
            length: head_length.unwrap_or(body.len() as u64),
            content_type,
            digest,
            part: None,
            keep_alive: conn.keep_alive,
            extra,
        }
        .write(&mut bytes);
        if !(conn.is_head || unchanged) {
            bytes.extend_from_slice(body);
        }
        conn.state = State::Answering;
        self.send_answer(index, bytes);
    }

    /// Sends an error of the distribution specification.
    pub(super) fn answer_error(&mut self, index: u16, status: u16, code: &str, message: &str) {
        self.answer(index, status, JSON_TYPE, None, "", None, &error_body(code, message));
    }

    fn answer_sent(&mut self, index: u16, outcome: std::io::Result<u32>) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        let Ok(bytes) = outcome else {
            self.leave_heading(index);
            return self.close_conn(index);
        };
        match conn.state {
            State::Heading { .. } => self.head_sent(index, u64::from(bytes)),
            State::Answering => {
                conn.traffic.count(u64::from(bytes), self.now);
                self.next_request(index);
            }
            _ => {}
        }
    }

    fn leave_heading(&mut self, index: u16) {
        let Some(conn) = self.conns.get(index) else { return };
        if let State::Heading { flow, .. } = conn.state
            && let Some(flow) = self.flows.get_mut(flow)
        {
            flow.heading = flow.heading.saturating_sub(1);
        }
    }

    fn body_sent(&mut self, index: u16, outcome: std::io::Result<u32>) {
        let reader = ReaderId(index);
        match outcome {
            Ok(bytes) => {
                self.meter_sent(index, bytes);
                self.happen(Event::Sent { reader, bytes });
            }
            // Cancelled before a byte had gone.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                self.happen(Event::Sent { reader, bytes: 0 });
            }
            Err(_) => self.happen(Event::SendFailed { reader }),
        }
    }

    /// A response has ended: the next request, or the end.
    pub(super) fn next_request(&mut self, index: u16) {
        self.hold(index, 0);
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.since = self.now;
        conn.sending = None;
        conn.own_slot = None;
        conn.state = State::Reading;
        if !conn.keep_alive {
            return if conn.drain { self.drain(index) } else { self.close_conn(index) };
        }
        if conn.head.is_empty() {
            conn.head = Vec::new();
            self.read_request(index);
        } else {
            self.parse_request(index);
        }
    }
}
