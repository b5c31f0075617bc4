//! What comes in on a connection: requests are read, and sent to who answers them.

use std::sync::Arc;

use xylem_protocol::Digest;
use xylem_protocol::http::{ALIVE_PATH, HeadError, Method, Request, Route, error_body};
use xylem_protocol::limits::BODY_MAX;

use super::{JSON_TYPE, State};
use crate::access;
use crate::driver::Driver;
use crate::driver::flow::Flow;
use crate::link::{Ticket, ToCold};
use crate::oneline::chain;

impl Driver {
    pub(super) fn request_bytes(
        &mut self,
        index: u16,
        head: Vec<u8>,
        outcome: std::io::Result<u32>,
    ) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.head = head;
        match (&conn.state, outcome) {
            (State::Closing, _) => {}
            (State::Draining { .. }, outcome) => self.drained(index, outcome),
            (_, outcome) => self.head_bytes(index, outcome),
        }
    }

    fn head_bytes(&mut self, index: u16, outcome: std::io::Result<u32>) {
        match outcome {
            Ok(0) => self.close_conn(index),
            Ok(_) => self.parse_request(index),
            // All head buffers were taken at once: they are back by now.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.read_request(index),
            Err(_) => self.close_conn(index),
        }
    }

    /// Looks for a request in what was received.
    pub(in crate::driver) fn parse_request(&mut self, index: u16) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        let (mut request, length) = match Request::parse(&conn.head) {
            Ok(Some(found)) => found,
            Ok(None) => return self.read_rest(index),
            Err(error) => return self.refuse_request(index, &error),
        };
        conn.is_head = request.method == Method::Head;
        conn.known = std::mem::take(&mut request.known);
        if request.content_length > u64::from(BODY_MAX) {
            let message = format!("request bodies are limited to {BODY_MAX} bytes");
            (conn.keep_alive, conn.drain) = (false, true);
            return self.answer_error(index, 413, "SIZE_INVALID", &message);
        }
        let rest = usize::try_from(request.content_length).expect("at most BODY_MAX");
        let whole = length + rest;
        if conn.head.len() < whole {
            return self.read_rest(index);
        }
        let body = conn.head[length..whole].to_vec();
        conn.head.drain(..whole);
        let rest = conn.head.len();
        conn.keep_alive = request.keep_alive;
        conn.since = self.now;
        if conn.traffic.peer.is_none() {
            conn.traffic.peer = request.node.as_deref().map(Arc::from);
        }
        self.hold(index, rest);
        self.route(index, Box::new(request), body);
    }

    fn refuse_request(&mut self, index: u16, error: &HeadError) {
        if let Some(conn) = self.conns.get_mut(index) {
            (conn.keep_alive, conn.drain) = (false, true);
            conn.is_head = conn.head.starts_with(b"HEAD ");
            conn.head = Vec::new();
        }
        let allowed = if *error == HeadError::Push { "Allow: GET, HEAD\r\n" } else { "" };
        let body = error_body(error.code(), &chain(error));
        self.answer(index, error.status(), JSON_TYPE, None, allowed, None, &body);
    }

    fn route(&mut self, index: u16, request: Box<Request>, body: Vec<u8>) {
        if matches!(&request.route, Route::Other(path) if path == ALIVE_PATH) {
            // Answered here: it is this thread whose silence is asked about.
            return self.answer(index, 200, "text/plain", None, "", None, b"alive\n");
        }
        let is_blob = matches!(request.route, Route::Blob { .. })
            && matches!(request.method, Method::Get | Method::Head);
        if !is_blob {
            return self.ask_cold(index, request, body);
        }
        if self.may_have(&request) {
            return self.serve_blob(index, request);
        }
        let ticket = self.ticket(index);
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.state = State::Admitting { request: request.clone() };
        self.tell(ToCold::Admit { ticket, request });
    }

    fn ticket(&self, index: u16) -> Ticket {
        let generation = self.conns.generation(index);
        Ticket(u64::from(generation) << 16 | u64::from(index))
    }

    fn ask_cold(&mut self, index: u16, request: Box<Request>, body: Vec<u8>) {
        let ticket = self.ticket(index);
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.state = State::Asking;
        self.tell(ToCold::Ask { ticket, request, body });
    }

    /// Whether a request's caller is known to have a right to what it asks for.
    fn may_have(&mut self, request: &Request) -> bool {
        let Some(grantor) = &self.settings.grantor else { return true };
        let Some(digest) = access::digest_of(request) else { return true };
        let key = grantor.key(request, &digest);
        self.grants.get(key, self.now).is_some() || self.vouchers.vouched(request)
    }

    /// Answers a request for a blob whose caller may have it.
    pub(in crate::driver) fn serve_blob(&mut self, index: u16, request: Box<Request>) {
        let Some(digest) = access::digest_of(&request) else { return };
        // A HEAD is answered here if the size is known, otherwise by who can ask for it.
        if request.method == Method::Head && self.size_of(&digest).is_none() {
            return self.ask_cold(index, request, Vec::new());
        }
        let Some(flow) = self.find_or_want(&digest, &request) else {
            let message = "too many blobs are being fetched; try again";
            return self.answer_error(index, 503, "TOOMANYREQUESTS", message);
        };
        if request.path.contains(&self.settings.node) && !self.is_complete(flow) {
            let message = "the request has passed this node already; ask the registry";
            return self.answer_error(index, 508, "UNKNOWN", message);
        }
        let known = self.flows.get(flow).and_then(|flow| flow.size);
        match known {
            Some(size) => self.answer_blob(index, flow, size, &request),
            None => {
                let generation = self.conns.generation(index);
                if let Some(flow) = self.flows.get_mut(flow) {
                    flow.waiters.push((index, generation));
                }
                if let Some(conn) = self.conns.get_mut(index) {
                    conn.state = State::Waiting { request };
                }
            }
        }
    }

    fn is_complete(&self, flow: u16) -> bool {
        self.flows.get(flow).is_some_and(|flow| flow.complete)
    }

    fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.flows.get(*self.by_digest.get(digest)?)?.size
    }

    /// The flow of a blob; a new one, and a question to the cold half, if there is none.
    fn find_or_want(&mut self, digest: &Digest, request: &Request) -> Option<u16> {
        if let Some(&flow) = self.by_digest.get(digest) {
            return Some(flow);
        }
        let index = self.new_flow(Flow::new(*digest, self.now))?;
        self.tell(ToCold::Want { digest: *digest, request: Box::new(request.clone()) });
        self.asked = true;
        Some(index)
    }
}
