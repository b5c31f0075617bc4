//! How a downstream connection ends: by itself, by its client, or because its patience is over. Not
//! what it carried until then.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use xylem_protocol::limits::{DRAIN_BYTES_MAX, DRAIN_MS, HEAD_WAIT_MS, IDLE_MS};

use super::State;
use crate::driver::Driver;
use crate::ring::socket;

impl Driver {
    /// Ends a connection; it is freed when nothing is in flight. Not to be called while the relay
    /// feeds it.
    pub(in crate::driver) fn close_conn(&mut self, index: u16) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        debug_assert!(!matches!(conn.state, State::Streaming), "the relay still feeds it");
        conn.state = State::Closing;
        socket::shutdown(conn.fd.as_fd());
        self.free_conn_if_idle(index);
    }

    pub(super) fn free_conn_if_idle(&mut self, index: u16) {
        let Some(conn) = self.conns.get(index) else { return };
        if matches!(conn.state, State::Closing) && conn.operations == 0 {
            self.meter_closed_conn(index);
            self.hold(index, 0);
            self.conns.remove(index);
            self.accept_again();
        }
    }

    /// Says that nothing more comes, and drops what the client still sends. A socket that is closed
    /// over bytes which nobody has read is reset, and the client would lose the answer.
    pub(super) fn drain(&mut self, index: u16) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        let said = conn.fd.try_clone().and_then(|fd| TcpStream::from(fd).shutdown(Shutdown::Write));
        if said.is_err() {
            return self.close_conn(index);
        }
        conn.state = State::Draining { left: DRAIN_BYTES_MAX };
        self.read_request(index);
    }

    /// Some of what is dropped has come.
    pub(super) fn drained(&mut self, index: u16, outcome: io::Result<u32>) {
        let Some(conn) = self.conns.get_mut(index) else { return };
        conn.head = Vec::new();
        let State::Draining { left } = conn.state else { return };
        let rest = match outcome {
            Ok(0) => None,
            Ok(bytes) => left.checked_sub(u64::from(bytes)),
            // No buffer at the moment.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Some(left),
            Err(_) => None,
        };
        let Some(left) = rest else { return self.close_conn(index) };
        conn.state = State::Draining { left };
        self.read_request(index);
    }

    /// Ends connections that do not finish their head, do not take their answer, or have been idle
    /// for long.
    pub(in crate::driver) fn sweep_conns(&mut self) {
        for index in self.conns.indices() {
            let Some(conn) = self.conns.get_mut(index) else { continue };
            let patience = match conn.state {
                State::Reading if conn.head.is_empty() => IDLE_MS,
                State::Reading => HEAD_WAIT_MS,
                State::Draining { .. } => DRAIN_MS,
                // An answer holds its bytes until it is taken.
                State::Heading { .. } | State::Answering => IDLE_MS,
                State::Asking
                | State::Admitting { .. }
                | State::Waiting { .. }
                | State::Streaming
                | State::Closing => continue,
            };
            if self.now - conn.since > Duration::from_millis(patience) {
                // Completes the operation in flight; the rest is as if the client had left.
                socket::shutdown(conn.fd.as_fd());
            }
        }
        self.accept_again();
    }
}
