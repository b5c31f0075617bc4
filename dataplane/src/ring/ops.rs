//! One function per operation. Each says in its token what the completion will be about.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{opcode, types};

use super::heads::{HEAD_BUFFER_BYTES, HEAD_GROUP};
use super::token::{Kind, Token};
use super::{Owned, Ring, Slot, socket};

fn fd(fd: BorrowedFd<'_>) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

impl Ring {
    /// Accepts connections, one completion each, until it ends.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let entry = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(token, entry, None);
    }

    /// The connection that an accept brought.
    ///
    /// # Errors
    /// The accept failed.
    pub fn accepted(completion: &super::Completion) -> std::io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::FromRawFd;
        completion.outcome()?;
        // SAFETY: the kernel made this descriptor for this completion, which is taken once, by the
        // driver.
        Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(completion.result) })
    }

    /// Completes each time that something lies on a descriptor, until it ends.
    pub fn watch(&mut self, bell: BorrowedFd<'_>, token: Token) {
        let entry = opcode::PollAdd::new(fd(bell), libc::POLLIN as u32).multi(true).build();
        self.push(token, entry, None);
    }

    /// Completes once when a socket takes bytes.
    pub fn await_writable(&mut self, socket: BorrowedFd<'_>, token: Token) {
        let entry = opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
        self.push(token, entry, None);
    }

    /// Completes after `milliseconds`, with ETIME.
    pub fn timeout(&mut self, milliseconds: u64, token: Token) {
        let time = types::Timespec::new()
            .sec(milliseconds / 1000)
            .nsec(u32::try_from(milliseconds % 1000).unwrap_or(0) * 1_000_000);
        let time = Box::new(time);
        let entry = opcode::Timeout::new(&raw const *time).build();
        self.push(token, entry, Some(Owned::Time(time)));
    }

    /// Asks for the operation of `target`'s name to end; it completes as usual.
    pub fn cancel(&mut self, target: Token) {
        let entry = opcode::AsyncCancel::new(target.encode()).build();
        self.push(Token { kind: Kind::Cancel, ..target }, entry, None);
    }

    /// Connects a socket.
    pub fn connect(&mut self, socket: BorrowedFd<'_>, address: &SocketAddr, token: Token) {
        let (storage, length) = sockaddr(address);
        let entry = opcode::Connect::new(fd(socket), (&raw const *storage).cast(), length).build();
        self.push(token, entry, Some(Owned::Address(storage)));
    }

    /// Receives up to `most` bytes of a head into a buffer of the kernel's choice; with `peek` they
    /// stay on the socket.
    pub fn receive_head(&mut self, socket: BorrowedFd<'_>, most: u32, peek: bool, token: Token) {
        let flags = if peek { libc::MSG_PEEK } else { 0 };
        let most = most.min(HEAD_BUFFER_BYTES);
        let entry = opcode::Recv::new(fd(socket), std::ptr::null_mut(), most)
            .flags(flags)
            .buf_group(HEAD_GROUP)
            .build()
            .flags(io_uring::squeue::Flags::BUFFER_SELECT);
        self.push(token, entry, None);
    }

    /// Gives a head buffer to the kernel.
    pub(super) fn provide_head(&mut self, buffer: u16) {
        let pointer = self.heads.pointer(buffer);
        let entry = opcode::ProvideBuffers::new(
            pointer,
            HEAD_BUFFER_BYTES.cast_signed(),
            1,
            HEAD_GROUP,
            buffer,
        )
        .build();
        self.push_quiet(Token::new(Kind::Provide, buffer, 0), entry);
    }

    /// Receives into a slot what is there, at most `bytes`.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        slot: Slot,
        offset: u32,
        bytes: u32,
        token: Token,
    ) {
        let pointer = self.arena.pointer(slot, offset);
        let entry = opcode::Recv::new(fd(socket), pointer, bytes).build();
        self.push(token, entry, None);
    }

    /// Sends all of a part of a slot.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        slot: Slot,
        offset: u32,
        bytes: u32,
        token: Token,
    ) {
        let pointer = self.arena.pointer(slot, offset).cast_const();
        let entry = opcode::Send::new(fd(socket), pointer, bytes).flags(SEND_FLAGS).build();
        self.push(token, entry, None);
    }

    /// Sends all of a buffer, which the ring owns until it is done.
    pub fn send_bytes(&mut self, socket: BorrowedFd<'_>, bytes: Vec<u8>, token: Token) {
        let length = u32::try_from(bytes.len()).expect("an answer within its limit");
        let entry = opcode::Send::new(fd(socket), bytes.as_ptr(), length).flags(SEND_FLAGS).build();
        self.push(token, entry, Some(Owned::Bytes(bytes)));
    }

    /// Writes a part of a slot to a file.
    pub fn write(
        &mut self,
        file: BorrowedFd<'_>,
        slot: Slot,
        offset: u32,
        bytes: u32,
        at: u64,
        token: Token,
    ) {
        let pointer = self.arena.pointer(slot, offset).cast_const();
        let file = fd(file);
        let entry = if self.registered {
            opcode::WriteFixed::new(file, pointer, bytes, slot.0).offset(at).build()
        } else {
            opcode::Write::new(file, pointer, bytes).offset(at).build()
        };
        self.push(token, entry, None);
    }

    /// Reads a file into the start of a slot.
    pub fn read(&mut self, file: BorrowedFd<'_>, slot: Slot, bytes: u32, at: u64, token: Token) {
        let pointer = self.arena.pointer(slot, 0);
        let file = fd(file);
        let entry = if self.registered {
            opcode::ReadFixed::new(file, pointer, bytes, slot.0).offset(at).build()
        } else {
            opcode::Read::new(file, pointer, bytes).offset(at).build()
        };
        self.push(token, entry, None);
    }

    /// Gives a file its space and its size.
    pub fn allocate(&mut self, file: BorrowedFd<'_>, bytes: u64, token: Token) {
        let entry = opcode::Fallocate::new(fd(file), bytes).build();
        self.push(token, entry, None);
    }
}

/// All of it, and an error instead of SIGPIPE.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("an address family of 16 bits")
}

fn sockaddr(address: &SocketAddr) -> (Box<libc::sockaddr_storage>, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_storage (AF_UNSPEC).
    let mut storage: Box<libc::sockaddr_storage> = Box::new(unsafe { std::mem::zeroed() });
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every sockaddr.
            unsafe { (&raw mut *storage).cast::<libc::sockaddr_in>().write(raw) };
            socket::size::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut *storage).cast::<libc::sockaddr_in6>().write(raw) };
            socket::size::<libc::sockaddr_in6>()
        }
    };
    (storage, length)
}
